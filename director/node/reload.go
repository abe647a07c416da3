package node

import "errors"

// Reload changes over to new options while queries go on.
func (n *Node) Reload(Options) error { return errors.ErrUnsupported }
