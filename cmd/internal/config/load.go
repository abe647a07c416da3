package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/spf13/viper"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

// Problem is one thing that is wrong with a configuration.
type Problem = strict.Problem

// Problems is the error of [Load] and [Parse]: everything that is wrong.
type Problems = strict.Problems

// Size is a number of bytes. It is written with its unit, as in "64KiB".
type Size = strict.Size

// Source is what configures a daemon besides its file.
type Source struct {
	// Environ is the environment as os.Environ gives it; the RHUMB_ part is read.
	Environ []string
	// Set are "path=value" settings of the --set flag; the last one wins.
	Set []string
	// SkipFiles leaves the files that the configuration names unlooked at, to
	// check it on another machine than the one that it is for.
	SkipFiles bool
	// Serving is set by daemons, which go on with a server's certificate that has
	// expired; for others that is an error.
	Serving bool
	// Warn is told of what will be wrong soon; nil is nobody.
	Warn func(Problem)
	// Now is the clock by which certificates are valid; nil is time.Now.
	Now func() time.Time
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
	doc := strict.New(name, reflect.TypeFor[Config]())
	v := viper.NewWithOptions(viper.WithDecoderRegistry(only{doc}))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		doc.Fail(1, "", err.Error(), "mend the file")
	}
	origins := applySettings(v, doc, src)
	setDefaults(v, doc)
	cfg := new(Config)
	if err := v.UnmarshalExact(cfg, strict.Exactly); err != nil {
		// The document and the settings were compared with the schema, so this
		// is a gap between the two readings; refuse rather than guess.
		doc.Fail(1, "", err.Error(), "mend the file")
		return nil, doc.Err()
	}
	c := &checker{
		name: name, cfg: cfg, doc: doc, origins: origins, dir: filepath.Dir(name), skip: src.SkipFiles,
		now: time.Now(), serving: src.Serving, tell: src.Warn, unreadable: map[string]bool{},
	}
	if src.Now != nil {
		c.now = src.Now()
	}
	if c.tell == nil {
		c.tell = func(Problem) {}
	}
	c.all()
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// only is viper's registry of decoders with the document as the only one, so that
// nothing reaches viper unchecked.
type only struct{ doc *strict.Document }

// Decoder implements viper.DecoderRegistry.
func (o only) Decoder(string) (viper.Decoder, error) { return o.doc, nil }

// setDefaults gives viper the defaults of the sections that every daemon has
// and of the roles that the file has; a default alone must not make a role.
func setDefaults(v *viper.Viper, doc *strict.Document) {
	for _, s := range settings {
		role := section(s.Path)
		if s.Default == "" || ((role == "agent" || role == "director") && !doc.Has(role)) {
			continue
		}
		value, err := strict.ParseScalar(s.Type, s.Default)
		if err != nil {
			doc.Fail(1, s.Path, "the default "+err.Error(), "report this as a bug")
			continue
		}
		v.SetDefault(s.Path, value)
	}
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
