package agent

import "errors"

// Reload changes over to new options while requests go on.
func (a *Agent) Reload(Options) error { return errors.ErrUnsupported }
