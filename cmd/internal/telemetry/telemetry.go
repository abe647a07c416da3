// Package telemetry makes what a command hands to the daemons to be observed
// by: the logger, the metrics registry and the build's identity.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
)

// ParseLevel reads debug, info, warn or error.
func ParseLevel(level string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return l, fmt.Errorf("log level %q: %w; use debug, info, warn or error", level, err)
	}
	return l, nil
}

// NewLogger returns a logger that writes to w what is of a level or above; a
// [slog.LevelVar] can be changed while it logs. Format is text or json.
func NewLogger(w io.Writer, level slog.Leveler, format string) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	default:
		return nil, fmt.Errorf("log format %q: use text or json", format)
	}
}

// Build identifies the running binary. Fields that the build did not record are
// "unknown".
type Build struct {
	Version  string `json:"version"`  // of the module, "(devel)" when built from a checkout
	Revision string `json:"revision"` // of version control, with "+dirty" if the tree was changed
	Go       string `json:"go"`       // the toolchain, as in go1.26.0
	Platform string `json:"platform"` // as in linux/amd64
}

// ReadBuild returns what the linker recorded in this binary.
func ReadBuild() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return buildOf(info)
}

func buildOf(info *debug.BuildInfo) Build {
	b := Build{Version: "unknown", Revision: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	b.Revision += dirty
	return b
}

// String is the build on one line.
func (b Build) String() string {
	return fmt.Sprintf("rhumb %s (revision %s, %s, %s)", b.Version, b.Revision, b.Go, b.Platform)
}
