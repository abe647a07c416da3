package statefile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A state file is one line of ASCII, "rhumb-state FORMAT SHA256 LENGTH\n", and
// that many bytes of JSON with that SHA-256. The line comes first so that a file of
// another format is told from a torn one, and the JSON can be read by people.
const (
	magic = "rhumb-state"

	// format rises when an older program could misread the JSON. Fields that are
	// only added do not raise it: older programs skip them.
	format = 1

	// maxHead is more than the longest line: words, 64 digits and a length.
	maxHead = 128

	// maxBody is far above a large fleet: 100 regions with 64 KiB of status each
	// are 9 MB in base64.
	maxBody = 64 << 20
)

// ErrRefused is the error for a file that is there and can't be used. It says
// what is wrong and where the file was kept.
var ErrRefused = errors.New("refused")

// Save writes the state so that at any moment, whatever is killed and whatever
// loses power, the file holds either the state before or this one: into a file
// beside it, synced, renamed over it, and the folder synced.
func Save(path string, s State) error {
	text, err := encode(s)
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	// One name only: what a killed writer left is written over, not piled up.
	beside := path + ".new"
	if err := writeSynced(beside, text); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := os.Rename(beside, path); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Load reads the state of a director. Where there is no file the error is
// [fs.ErrNotExist]; one that can't be read is left where it is. A file that is torn, of another format, or of another owner is an [ErrRefused]: it is renamed, so that it is neither used nor
// written over, and the error says to what.
func Load(path string, o Owner) (State, error) {
	text, err := read(path)
	if _, unread := errors.AsType[*fs.PathError](err); unread {
		return State{}, err // nothing is known against the file
	}
	var s State
	if err == nil {
		s, err = decode(text)
	}
	if err == nil {
		err = s.fits(o)
	}
	if err != nil {
		return State{}, keepAside(path, err)
	}
	return s, nil
}

// read reads a file of bounded size.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("it is no regular file")}
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxHead+maxBody+1))
	if err == nil && len(text) > maxHead+maxBody {
		err = fmt.Errorf("it is larger than %d MiB, which no state is", maxBody>>20)
	}
	return text, err
}

// keptAside is how many refused files are kept; the oldest makes room.
const keptAside = 5

// keepAside renames a refused file.
func keepAside(path string, why error) error {
	to := ""
	for k := 1; k <= keptAside; k++ {
		name := fmt.Sprintf("%s.refused-%d", path, k)
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			to = name
			break
		}
	}
	if to == "" { // all are taken: move each one down, the first goes
		for k := 1; k < keptAside; k++ {
			_ = os.Rename(fmt.Sprintf("%s.refused-%d", path, k+1), fmt.Sprintf("%s.refused-%d", path, k))
		}
		to = fmt.Sprintf("%s.refused-%d", path, keptAside)
	}
	if err := os.Rename(path, to); err != nil {
		return fmt.Errorf("state file %s %w: %w; it could not be put aside: %w", path, ErrRefused, why, err)
	}
	return fmt.Errorf("state file %s %w: %w; it is kept as %s", path, ErrRefused, why, to)
}

func encode(s State) ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return encodeBody(body)
}

// encodeBody puts the line before the content.
func encodeBody(body []byte) ([]byte, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("%d bytes, at most %d are kept", len(body), maxBody)
	}
	sum := sha256.Sum256(body)
	return append(fmt.Appendf(nil, "%s %d %x %d\n", magic, format, sum, len(body)), body...), nil
}

// decode reads what encode wrote, and nothing else.
func decode(text []byte) (State, error) {
	head, _, ok := bytes.Cut(text[:min(len(text), maxHead)], []byte{'\n'})
	fields := strings.Fields(string(head))
	if !ok || len(fields) != 4 || fields[0] != magic {
		return State{}, errors.New("it does not begin as a state file does: it is torn or something else")
	}
	body := text[len(head)+1:]
	switch n, err := strconv.Atoi(fields[1]); {
	case err != nil:
		return State{}, fmt.Errorf("format %q is not a number", fields[1])
	case n > format:
		return State{}, fmt.Errorf("it is of format %d, written by a newer program; this one reads format %d", n, format)
	case n < format:
		return State{}, fmt.Errorf("it is of format %d, written by an older program; this one reads format %d", n, format)
	}
	if n, err := strconv.Atoi(fields[3]); err != nil || n != len(body) {
		return State{}, fmt.Errorf("it is torn: %d bytes of %s", len(body), fields[3])
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != fields[2] {
		return State{}, errors.New("it is damaged: the checksum is that of other content")
	}
	var s State
	if err := json.Unmarshal(body, &s); err != nil {
		return State{}, fmt.Errorf("its content can't be read: %w", err)
	}
	return s, s.check()
}
