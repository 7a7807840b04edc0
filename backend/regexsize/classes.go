package regexsize

import (
	"regexp/syntax"
	"sort"
	"unicode"
)

// Prometheus prints every parsed pattern and parses it again. For every character
// class the printer checks, rune by rune from minFold to maxFold, whether case
// folding would change it, until one rune does: for [^,] or \S that is 125,000
// runes, two milliseconds. The text of a class has up to 16 bytes for each range.
const (
	minFold     = 0x41
	maxFold     = 0x1e943
	foldUnit    = 64   // runes checked by the printer that count as one instruction
	exactFold   = 1000 // runes checked here to find whether the printer stops early; \pL stops at 860, most earlier
	exactWeight = 4    // weight of a rune checked here
	smallClass  = 16   // runes of a class that are free
	runesInUnit = 8    // runes of a larger class that count as one instruction
)

// classes returns the cost, in instructions, of printing and storing the character classes of a
// pattern. It stops when the cost exceeds most.
func classes(re *syntax.Regexp, most int64) int64 {
	var n int64
	if re.Op == syntax.OpCharClass {
		n = foldWalk(re.Rune) / foldUnit
		if len(re.Rune) > smallClass {
			n += int64(len(re.Rune)) / runesInUnit
		}
	}
	for _, sub := range re.Sub {
		if n > most {
			break
		}
		n += classes(sub, most-n)
	}
	return n
}

// foldWalk returns an upper bound of the number of runes that the printer checks. Those
// that foldWalk checks, too, count exactWeight times.
func foldWalk(class []rune) int64 {
	var walked int64
	for i := 0; i+1 < len(class); i += 2 {
		lo, hi := max(minFold, class[i]), min(maxFold, class[i+1])
		for r := lo; r <= hi; r++ {
			if walked++; walked > exactFold {
				walked += int64(hi - r)
				break
			}
			if foldsOut(r, lo, hi, class) {
				return walked * exactWeight
			}
		}
	}
	return walked + min(walked, exactFold)*(exactWeight-1)
}

// foldsOut reports whether a rune that differs from r only in case is not in the
// class.
func foldsOut(r, lo, hi rune, class []rune) bool {
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		if (f < lo || f > hi) && !contains(class, f) {
			return true
		}
	}
	return false
}

func contains(class []rune, r rune) bool {
	i := sort.Search(len(class)/2, func(i int) bool { return class[2*i+1] >= r })
	return 2*i < len(class) && class[2*i] <= r
}
