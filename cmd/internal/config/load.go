package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// Source is what configures a daemon besides its file.
type Source struct {
	// Environ is the environment as os.Environ gives it; the RHUMB_ part is read.
	Environ []string
	// Set are "path=value" settings of the --set flag; the last one wins.
	Set []string
	// SkipFiles leaves the files that the configuration names unlooked at, to
	// check it on another machine than the one that it is for.
	SkipFiles bool
}

// maxFile bounds a configuration file. 4 MiB hold some 60,000 client networks;
// more is a wrong file.
const maxFile = 4 << 20

// Load reads and checks a configuration file. An error is either [Problems] or
// says why the file could not be read.
func Load(path string, src Source) (*Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w; name a file that exists", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("read configuration %s: it is not a file of at most %v; name a configuration file", path, Size(maxFile))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w; make it readable for this user", err)
	}
	return Parse(path, data, src)
}

// Parse checks the contents of a configuration file. The name is used in
// messages, and relative paths in the file start from its folder. An error is
// [Problems].
func Parse(name string, data []byte, src Source) (*Config, error) {
	doc := newDocument(name)
	v := viper.NewWithOptions(viper.WithDecoderRegistry(doc))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		doc.fail(1, "", err.Error(), "mend the file")
	}
	origins := applySettings(v, doc, src)
	setDefaults(v, doc)
	cfg := new(Config)
	if err := v.UnmarshalExact(cfg, strictly); err != nil {
		// The document and the settings were compared with the schema, so this
		// is a gap between the two readings; refuse rather than guess.
		doc.fail(1, "", err.Error(), "mend the file")
		return nil, doc.problems.sorted(name)
	}
	c := &checker{cfg: cfg, doc: doc, origins: origins, dir: filepath.Dir(name), look: openFile}
	if src.SkipFiles {
		c.look = func(string, bool) error { return nil }
	}
	c.all()
	if len(doc.problems) > 0 {
		return nil, doc.problems.sorted(name)
	}
	return cfg, nil
}

// setDefaults gives viper the defaults of the sections that every daemon has
// and of the roles that the file has; a default alone must not make a role.
func setDefaults(v *viper.Viper, doc *document) {
	for _, s := range settings {
		role := section(s.path)
		if s.fallback == "" || ((role == "agent" || role == "director") && !doc.has(role)) {
			continue
		}
		value, err := parseScalar(s.typ, s.fallback)
		if err != nil {
			doc.fail(1, s.path, "the default "+err.Error(), "report this as a bug")
			continue
		}
		v.SetDefault(s.path, value)
	}
}

// strictly makes viper's decoding exact: no text for numbers, no numbers for
// booleans, and durations and text types from text only.
func strictly(c *mapstructure.DecoderConfig) {
	c.WeaklyTypedInput = false
	c.DecodeHook = mapstructure.ComposeDecodeHookFunc(
		mapstructure.DecodeHookFuncType(durationFromText),
		mapstructure.TextUnmarshallerHookFunc(),
	)
}

func durationFromText(from, to reflect.Type, value any) (any, error) {
	if to != durationType {
		return value, nil
	}
	text, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("%v (%v) is not a duration with a unit", value, from)
	}
	return time.ParseDuration(text)
}

// openFile reports why a file, or folder, that the configuration names can't be
// used by this user.
func openFile(path string, folder bool) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case folder && !info.IsDir():
		return fmt.Errorf("%s is not a folder", path)
	case !folder && !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
