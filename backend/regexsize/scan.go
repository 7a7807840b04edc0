package regexsize

import (
	"strings"
	"unicode/utf8"
)

// Costs of parsing that the scan of the text finds, in 64ths of an instruction. The
// weights were measured; worst_test.go has the patterns for which they matter.
const (
	unit        = 64
	classWeight = 150 * unit // \pL: 1,300 runes, stored, printed and parsed again
	perlWeight  = 4 * unit   // \w with case folding
	itemWeight  = unit / 8   // a rune or a range in [...]
	foldedRunes = 6          // for each rune of a range with case folding, which is looked up
	closeWeight = unit / 16  // for each piece inside a group that ends, which is copied to the outer level
	emptySearch = 1024       // bytes searched for ":]" that count as one instruction
)

// level is an open group, or the whole pattern.
type level struct {
	pieces int64 // pieces of the current alternative: a run of literals is one
	run    bool  // the last piece is a run of literals
	total  int64 // pieces of all alternatives, and of inner groups
	square int64 // sum of the squares of the alternatives' pieces
	alts   int64 // alternatives before the current one
}

// scanner scans a pattern as the parser does, but only its structure. The parser
// rejects every pattern that it cannot scan.
type scanner struct {
	text    string
	i       int
	n       int64 // 64ths of an instruction
	fold    bool  // (?i) was seen; its end is ignored
	lastEnd int   // position of the last ":]"
	levels  []level
}

// scanText returns the cost of parsing a pattern, in instructions. It stops when the cost exceeds
// most.
func scanText(pattern string, most int) int {
	s := &scanner{text: pattern, levels: make([]level, 1, 8), lastEnd: strings.LastIndex(pattern, ":]")}
	for s.i < len(s.text) && s.n/unit <= int64(most) {
		s.next()
	}
	for len(s.levels) > 1 {
		s.close()
	}
	s.endAlternative()
	if l := s.top(); l.alts > 1 {
		s.n += l.square
	}
	return int(min(s.n/unit, int64(most)+1))
}

func (s *scanner) top() *level { return &s.levels[len(s.levels)-1] }

func (s *scanner) piece() {
	l := s.top()
	l.pieces, l.run = l.pieces+1, false
}

func (s *scanner) rune() {
	if l := s.top(); !l.run {
		l.pieces, l.run = l.pieces+1, true
	}
}

func (s *scanner) next() {
	c := s.text[s.i]
	switch c {
	case '\\':
		s.escape()
		return
	case '[':
		s.class()
		return
	case '(':
		s.open()
		return
	}
	s.i++
	switch c {
	case ')':
		if len(s.levels) > 1 {
			s.close()
		} else {
			s.piece()
		}
	case '|':
		s.endAlternative()
	case '.', '^', '$', '*', '+', '?', '{':
		s.piece()
	default:
		s.rune()
	}
}

// open begins a group, or changes only flags.
func (s *scanner) open() {
	s.i++
	if rest := s.text[s.i:]; strings.HasPrefix(rest, "?") && !strings.HasPrefix(rest, "?P<") && !strings.HasPrefix(rest, "?<") {
		end := strings.IndexAny(rest, ":)")
		if end < 0 {
			s.i = len(s.text)
			return
		}
		s.fold = s.fold || strings.Contains(rest[:end], "i")
		s.i += end + 1
		if rest[end] == ')' {
			return
		}
	}
	s.levels = append(s.levels, level{})
}

// close ends a group. If it is a concatenation in a concatenation, or an
// alternation in an alternation, the parser copies its pieces to the outer level,
// so that the cost of a piece grows with its depth.
func (s *scanner) close() {
	s.endAlternative()
	l := *s.top()
	s.levels = s.levels[:len(s.levels)-1]
	s.n += l.total * closeWeight
	outer := s.top()
	if l.alts > 1 {
		s.n += l.square
		outer.total += l.total
		outer.pieces++
	} else {
		outer.pieces += l.total
	}
	outer.run = false
}

// endAlternative ends an alternative. The parser factors equal beginnings of
// alternatives piece by piece, and for each piece it moves and checks all the
// following ones.
func (s *scanner) endAlternative() {
	l := s.top()
	l.square += l.pieces * l.pieces
	l.total += l.pieces + 1
	l.alts++
	l.pieces, l.run = 0, false
}

// escape scans an escape sequence outside of a class.
func (s *scanner) escape() {
	rest := s.text[s.i+1:]
	if rest == "" {
		s.i++
		return
	}
	switch rest[0] {
	case 'Q':
		end := strings.Index(rest, `\E`)
		if end < 0 {
			end = len(rest)
		} else {
			end += 2
		}
		s.i += 1 + end
		s.rune()
	case 'p', 'P', 'd', 'D', 's', 'S', 'w', 'W':
		s.group(rest[0])
		s.piece()
	case 'A', 'b', 'B', 'z':
		s.i += 2
		s.piece()
	default:
		s.char()
		s.rune()
	}
}

// group scans \pL, \p{Greek}, \w and similar classes.
func (s *scanner) group(c byte) {
	s.i += 2
	if c != 'p' && c != 'P' {
		if s.fold {
			s.n += perlWeight
		}
		return
	}
	s.n += classWeight
	if strings.HasPrefix(s.text[s.i:], "{") {
		if end := strings.IndexByte(s.text[s.i:], '}'); end >= 0 {
			s.i += end + 1
			return
		}
	}
	s.char()
}

// class scans [...].
func (s *scanner) class() {
	s.piece()
	s.i++
	if strings.HasPrefix(s.text[s.i:], "^") {
		s.i++
	}
	for first := true; s.i < len(s.text) && (first || s.text[s.i] != ']'); first = false {
		s.classItem()
	}
	s.i++ // ]
}

func (s *scanner) classItem() {
	s.n += itemWeight
	rest := s.text[s.i:]
	if strings.HasPrefix(rest, "[:") {
		if s.lastEnd < s.i+2 { // the parser searches to the end of the text
			s.n += int64(len(rest)) * unit / emptySearch
		} else if end := strings.Index(rest[2:], ":]"); end >= 0 {
			s.i += end + 4
			if s.fold {
				s.n += perlWeight
			}
			return
		}
	}
	if len(rest) >= 2 && rest[0] == '\\' && strings.IndexByte("pPdDsSwW", rest[1]) >= 0 {
		s.group(rest[1])
		return
	}
	lo := s.char()
	hi := lo
	if rest := s.text[s.i:]; len(rest) >= 2 && rest[0] == '-' && rest[1] != ']' {
		s.i++
		hi = s.char()
	}
	if lo, hi = max(lo, minFold), min(hi, maxFold); s.fold && lo <= hi {
		s.n += int64(hi-lo+1) * foldedRunes
	}
}

// char scans one character, plain or escaped.
func (s *scanner) char() rune {
	if s.i >= len(s.text) {
		return 0
	}
	if s.text[s.i] != '\\' {
		r, size := utf8.DecodeRuneInString(s.text[s.i:])
		s.i += size
		return r
	}
	s.i++
	if s.i >= len(s.text) {
		return 0
	}
	c := s.text[s.i]
	switch {
	case c == 'x':
		s.i++
		return s.hex()
	case '0' <= c && c <= '7':
		return s.octal()
	}
	r, size := utf8.DecodeRuneInString(s.text[s.i:])
	s.i += size
	return r
}

func (s *scanner) octal() rune {
	var r rune
	for n := 0; n < 3 && s.i < len(s.text) && '0' <= s.text[s.i] && s.text[s.i] <= '7'; n++ {
		r = r*8 + rune(s.text[s.i]-'0')
		s.i++
	}
	return r
}

// hex scans the digits of \x41 or \x{1f600}.
func (s *scanner) hex() rune {
	digits := s.text[s.i:min(s.i+2, len(s.text))]
	s.i += len(digits)
	if strings.HasPrefix(digits, "{") {
		s.i -= len(digits) - 1
		end := strings.IndexByte(s.text[s.i:], '}')
		if end < 0 {
			s.i = len(s.text)
			return 0
		}
		digits = s.text[s.i : s.i+end]
		s.i += end + 1
	}
	var r rune
	for _, c := range digits {
		d := strings.IndexRune("0123456789abcdef", c|0x20)
		if d < 0 || r > maxFold {
			break
		}
		r = r*16 + rune(d)
	}
	return r
}
