package main

// settingsHelp ends the help of a daemon.
const settingsHelp = `

Its settings are in a YAML file; the commented deploy/agent.yaml and
deploy/director.yaml show all of them, and rhumb check config FILE checks one. Any
single value can also be set without the file, in rising order, by
  the environment: RHUMB_SECTION_KEY=VALUE, as RHUMB_ZONE_TTL=30s for zone.ttl
  a flag:          --set section.key=VALUE, as --set zone.ttl=30s
A list is its items with commas between them. A misspelt RHUMB_ variable is an
error that names the one that was probably meant. Values that are set like this
stay over reloads.`
