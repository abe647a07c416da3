package strict

import "testing"

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0B": 0, "1B": 1, "64KiB": 65536, "100MiB": 100 << 20, "2GiB": 2 << 30, "1025KiB": 1025 << 10} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want || s.String() != text {
			t.Errorf("%s: %d (%v), %v", text, s, s, err)
		}
	}
	for _, text := range []string{"", "B", "1", "1MB", "1 MiB", "-1B", "+1B", "1.5GiB", "99999999999GiB", "0x1B", "1KiBB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %v", text, s)
		}
	}
}
