package reload

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

// Diff lists the settings in which two configurations differ, by path: those that
// a running daemon can take over, and those that need a restart. A list counts as
// one setting.
func Diff(old, renewed *config.Config) (live, restart []string) {
	diff(reflect.ValueOf(old).Elem(), reflect.ValueOf(renewed).Elem(), "", false, func(path string, isLive bool) {
		if isLive {
			live = append(live, path)
		} else {
			restart = append(restart, path)
		}
	})
	return live, restart
}

// diff compares two structs field by field. The tag reload:"live" on a field holds
// for all below it.
func diff(old, renewed reflect.Value, prefix string, live bool, found func(path string, live bool)) {
	for i := range old.NumField() {
		f := old.Type().Field(i)
		path, isLive := strict.Join(prefix, f.Tag.Get("mapstructure")), live || f.Tag.Get("reload") == "live"
		a, b := old.Field(i), renewed.Field(i)
		if f.Type.Kind() == reflect.Pointer {
			if a.IsNil() != b.IsNil() {
				found(path, false)
				continue
			}
			if a.IsNil() {
				continue
			}
			a, b = a.Elem(), b.Elem()
		}
		switch {
		case strict.IsMapping(a.Type()):
			diff(a, b, path, isLive, found)
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			found(path, isLive)
		}
	}
}

// needRestart is the error of a configuration that can't be taken over.
func needRestart(paths []string) error {
	slices.Sort(paths)
	return fmt.Errorf("only a restart can change %s; nothing was changed", strings.Join(paths, ", "))
}
