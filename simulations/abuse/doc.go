// Package abuse is what hostile clients do to a region's gateway, as tests: slow
// ones, floods of frames and connections, endless and malformed bodies, all over
// raw TCP. Beside each attack a normal client is served and a stream lives.
//
// By default each runs at a small scale against the gateway's own parts in this
// process. With -heavy, as make abuse does, each runs at full strength against an
// agent that is a process of its own, whose peak of memory and time of CPU are
// printed.
package abuse
