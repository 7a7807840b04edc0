// Package nearest suggests a known word for a mistyped one.
package nearest

import (
	"slices"
	"strings"
)

// Word returns the known word that a mistyped one probably means: the closest one that
// differs in at most a third of its characters, or else one that contains all the parts
// of the word between underscores. It returns "" if there is none.
func Word(word string, known []string) string {
	const longest = 64
	word = strings.ToLower(word[:min(len(word), longest)])
	near := func(k string) bool { return distance(word, k) <= max(len(k), len(word))/3 }
	if found := closest(word, known, near); found != "" {
		return found
	}
	return closest(word, known, func(k string) bool { return hasParts(k, word) })
}

func closest(word string, known []string, fits func(string) bool) string {
	best, least := "", 0
	for _, k := range known {
		if d := distance(word, k); fits(k) && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// hasParts reports whether word has at least two parts and k contains all of them.
func hasParts(k, word string) bool {
	parts, of := strings.Split(word, "_"), strings.Split(k, "_")
	for _, p := range parts {
		if !slices.Contains(of, p) {
			return false
		}
	}
	return len(parts) > 1
}

// distance returns the minimum number of bytes to insert, delete, replace or swap with the next
// byte to turn a into b (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
