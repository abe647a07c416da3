// Package example holds the configuration of a whole world on one machine, as
// separate daemons: two directors and the agents of three regions, on loopback
// addresses. Its pods are run by rhumb pod; keys are made by rhumb keygen.
package example

import "embed"

// Files are NAME.yaml for each daemon.
//
//go:embed *.yaml
var Files embed.FS
