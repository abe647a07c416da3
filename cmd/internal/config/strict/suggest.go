package strict

import "strings"

// didYouMean is the remedy for an unknown name: the known one that is nearest
// in spelling, else all of them.
func didYouMean(name string, known []string) string {
	if best := Nearest(name, known); best != "" {
		return "did you mean " + best + "?"
	}
	return "the keys here are " + strings.Join(known, ", ")
}

// Nearest is the known name that name was probably meant to be, else empty.
func Nearest(name string, known []string) string {
	// Two edits catch a slip of the finger (two letters swapped, one missing); of
	// a short word they would make a different one.
	near := min(2, (len(name)+1)/3)
	best, bestEdits := "", near+1
	for _, k := range known {
		if len(name) > len(k)+near {
			continue // also bounds the work on a hostile key
		}
		if edits := distance(strings.ToLower(name), strings.ToLower(k)); edits < bestEdits {
			best, bestEdits = k, edits
		}
	}
	return best
}

// distance is the Levenshtein distance of two short strings in bytes, by
// Wagner and Fischer (The String-to-String Correction Problem, 1974).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			row[j+1] = min(substitute, above+1, row[j]+1)
			diagonal = above
		}
	}
	return row[len(b)]
}
