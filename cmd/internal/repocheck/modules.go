package repocheck

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Allowed are the licences of modules that may be linked into the product.
// MPL-2.0 binds changed files only, and we change none.
var Allowed = []string{"Apache-2.0", "BSD", "CC0-1.0", "ISC", "MIT", "MPL-2.0"}

// licences are told apart by a phrase of their text. The order matters: the
// MPL's text names the GPL.
var licences = []struct{ name, phrase string }{
	{"MPL-2.0", "mozilla public license"},
	{"GPL", "gnu general public license"},
	{"GPL", "gnu lesser general public license"},
	{"GPL", "gnu affero general public license"},
	{"Apache-2.0", "apache license version 2.0"},
	{"CC0-1.0", "cc0 1.0 universal"},
	{"BSD", "redistribution and use in source and binary forms"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose"},
	{"MIT", "permission is hereby granted, free of charge"},
}

// Classify names the licence of a licence text, "" for none that it knows.
func Classify(text string) string {
	flat := strings.ToLower(strings.Join(strings.Fields(text), " "))
	for _, l := range licences {
		if strings.Contains(flat, l.phrase) {
			return l.name
		}
	}
	return ""
}

// CheckLicences wants each module to have licence texts, all of them allowed.
// Texts are by module and file name.
func CheckLicences(texts map[string]map[string]string) []string {
	var found []string
	for module, files := range texts {
		if len(files) == 0 {
			found = append(found, violate(module, "has no licence; don't link it"))
		}
		for name, text := range files {
			if licence := Classify(text); !slices.Contains(Allowed, licence) {
				found = append(found, violate(module, "%s is licensed under %q; linked modules need one of %s", name, licence, strings.Join(Allowed, ", ")))
			}
		}
	}
	slices.Sort(found)
	return found
}

// ReadLicences reads the licence texts at the top of each module that the
// packages come from.
func ReadLicences(packages []Package) (map[string]map[string]string, error) {
	texts := map[string]map[string]string{}
	for _, p := range packages {
		if p.Module == nil || p.Module.Main || texts[p.Module.Path] != nil {
			continue
		}
		files := map[string]string{}
		texts[p.Module.Path] = files
		entries, err := os.ReadDir(p.Module.Dir)
		if err != nil {
			return nil, fmt.Errorf("look for the licence of %s: %w", p.Module.Path, err)
		}
		for _, e := range entries {
			name := strings.ToUpper(e.Name())
			isText := !strings.HasSuffix(name, ".GO") && !e.IsDir()
			if isText && (strings.HasPrefix(name, "LICEN") || strings.HasPrefix(name, "COPYING")) {
				data, err := os.ReadFile(filepath.Join(p.Module.Dir, e.Name()))
				if err != nil {
					return nil, fmt.Errorf("read the licence of %s: %w", p.Module.Path, err)
				}
				files[e.Name()] = string(data)
			}
		}
	}
	return texts, nil
}

// AtLeast reports whether a version (v1.2.3) is a minimum or newer. A
// pre-release counts as older than every release, because what it lacks is not
// known.
func AtLeast(version, minimum string) (bool, error) {
	v, err := numbers(version)
	if err != nil {
		return false, err
	}
	low, err := numbers(minimum)
	if err != nil {
		return false, err
	}
	return !strings.Contains(version, "-") && slices.Compare(v, low) >= 0, nil
}

func numbers(version string) ([]int, error) {
	var major, minor, patch int
	if _, err := fmt.Sscanf(version, "v%d.%d.%d", &major, &minor, &patch); err != nil {
		return nil, fmt.Errorf("version %q is not like v1.2.3", version)
	}
	return []int{major, minor, patch}, nil
}
