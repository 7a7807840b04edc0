package regexsize

import "regexp/syntax"

// Prometheus tries to replace a pattern by the set of strings that it matches, at
// most maxSet, and copies each string so far for every piece that follows:
// (aaaa...)[0-9][0-9](x)(x)(x)... copies 100 strings for each (x). See
// findSetMatches and stringMatcherFromRegexp in its package labels.
const (
	maxSet      = 256
	setOverhead = 64       // bytes of a string in addition to its text
	setUnit     = 256      // bytes that count as one instruction
	setFree     = 32 << 10 // bytes that are free
	foldWeight  = 4        // weight of an ASCII byte with case folding
	normWeight  = 64       // weight of other bytes with case folding, because such strings are normalized
)

// set describes the set of strings of a subexpression. A base is a string found to
// the left of it; bases are copied into each of the new strings.
type set struct {
	ok      bool  // a set of at most maxSet strings exists
	count   int64 // number of strings
	strings int64 // strings created in the process
	bytes   int64 // their bytes, without the base
	longest int64 // bytes of the longest string, without the base
}

// sets sums the bytes copied, and caches the set of each node.
type sets struct {
	known map[*syntax.Regexp]set
	bytes int64
}

// setMatches returns the cost, in instructions, of the bytes that Prometheus copies
// to find sets.
func setMatches(re *syntax.Regexp) int64 {
	s := &sets{known: map[*syntax.Regexp]set{}}
	top := s.find(re)
	s.bytes += top.bytes
	s.visit(re)
	return max(0, s.bytes-setFree) / setUnit
}

func uncaptured(re *syntax.Regexp) *syntax.Regexp {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	return re
}

// visit follows stringMatcherFromRegexp, which searches for sets at every level
// again.
func (s *sets) visit(re *syntax.Regexp) {
	re = uncaptured(re)
	subs := re.Sub
	switch re.Op {
	case syntax.OpAlternate:
		for _, sub := range subs {
			s.visit(sub)
		}
	case syntax.OpConcat:
		if len(subs) > 0 && repeats(subs[0]) {
			subs = subs[1:]
		}
		if len(subs) > 0 && repeats(subs[len(subs)-1]) {
			subs = subs[:len(subs)-1]
		}
		s.bytes += s.concat(subs).bytes
		if len(subs) <= 2 {
			for _, sub := range subs {
				s.visit(sub)
			}
		}
	}
}

func repeats(re *syntax.Regexp) bool {
	re = uncaptured(re)
	return re.Op == syntax.OpStar || re.Op == syntax.OpPlus || re.Op == syntax.OpQuest
}

func (s *sets) find(re *syntax.Regexp) set {
	re = uncaptured(re)
	switch re.Op {
	case syntax.OpLiteral:
		n := weight(re)
		return set{ok: true, count: 1, strings: 1, bytes: n + setOverhead, longest: n}
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText:
		return set{ok: true, count: 1, strings: 1, bytes: setOverhead}
	case syntax.OpCharClass:
		return classSet(re.Rune)
	case syntax.OpConcat, syntax.OpAlternate:
		if known, ok := s.known[re]; ok {
			return known
		}
		var found set
		if re.Op == syntax.OpConcat {
			found = s.concat(re.Sub)
		} else {
			found = s.alternate(re.Sub)
		}
		s.known[re] = found
		return found
	}
	return set{}
}

// weight returns the cost of copying a literal, in bytes.
func weight(re *syntax.Regexp) int64 {
	n, runes := int64(len(string(re.Rune))), int64(len(re.Rune))
	switch {
	case re.Flags&syntax.FoldCase == 0:
		return n
	case n == runes:
		return n * foldWeight
	}
	return n * normWeight
}

func classSet(runes []rune) set {
	var n int64
	for i := 0; i+1 < len(runes); i += 2 {
		n += int64(runes[i+1]-runes[i]) + 1
	}
	if n > maxSet || n == 0 {
		return set{}
	}
	return set{ok: true, count: n, strings: n, bytes: n * (4 + setOverhead), longest: 4}
}

func (s *sets) concat(subs []*syntax.Regexp) set {
	all := set{ok: true, count: 1}
	for _, re := range subs {
		sub := s.find(re)
		// All strings so far are bases, until there are too many or one subexpression
		// fails.
		bases := all.count
		switch {
		case !sub.ok:
			bases = 1
		case bases*sub.count > maxSet:
			bases = maxSet/sub.count + 1
		}
		all.strings += bases * sub.strings
		all.bytes += bases * (sub.bytes + sub.strings*all.longest)
		all.count *= sub.count
		all.longest += sub.longest
		if !sub.ok || all.count > maxSet {
			all.ok = false
			return all
		}
	}
	return all
}

func (s *sets) alternate(subs []*syntax.Regexp) set {
	all := set{ok: true}
	for _, re := range subs {
		sub := s.find(re)
		all.strings += sub.strings
		all.bytes += sub.bytes
		all.count += sub.count
		all.longest = max(all.longest, sub.longest)
		if !sub.ok || all.count > maxSet {
			all.ok = false
			return all
		}
	}
	return all
}
