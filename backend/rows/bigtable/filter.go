package bigtable

import (
	"fmt"
	"slices"
	"strings"

	"cloud.google.com/go/bigtable"

	"github.com/palliumhq/pallium/backend/rows"
)

// Limits of a filter: Bigtable accepts 20 KiB, and RE2 limits nested groups.
const (
	maxFilter  = 20 << 10
	maxPattern = maxFilter - 512 // of the pattern for qualifiers; the rest of a filter is short
	maxNested  = 100
)

// translated is a filter as it is sent to Bigtable. If wanted is set, the sent filter is
// too wide, and rest must be applied to the cells of each row: the sent filter may match
// other qualifiers, and does not limit the cells per row.
type translated struct {
	filter bigtable.Filter
	wanted func(qualifier string) bool
}

// rest applies the part of the filter that was not sent. It returns the selected cells of
// a row, at most the given number; 0 means all.
func (t *translated) rest(cells []rows.Cell, most int) []rows.Cell {
	cells = slices.DeleteFunc(cells, func(c rows.Cell) bool { return !t.wanted(c.Qualifier) })
	if most > 0 && len(cells) > most {
		cells = cells[:most]
	}
	return cells
}

// translate converts a filter. Its parts apply in the order of the fields.
func translate(f rows.Filter) translated {
	var out translated
	var chain []bigtable.Filter
	if len(f.Families) > 0 {
		var names []string
		for _, n := range f.Families {
			names = append(names, quote(string(n)))
		}
		chain = append(chain, bigtable.FamilyFilter(strings.Join(names, "|")))
	}
	pattern, exact := columnPattern(f)
	if pattern != "" {
		chain = append(chain, bigtable.ColumnFilter(pattern))
	}
	if !exact {
		out.wanted = wanted(f)
	}
	if f.MinTime > 0 {
		chain = append(chain, bigtable.TimestampRangeFilterMicros(bigtable.Timestamp(f.MinTime*1000), 0))
	}
	if f.Latest {
		chain = append(chain, bigtable.LatestNFilter(1))
	}
	if f.CellsPerRow > 0 && exact {
		chain = append(chain, bigtable.CellsPerRowLimitFilter(f.CellsPerRow))
	}
	switch len(chain) {
	case 0:
		out.filter = bigtable.PassAllFilter()
	case 1:
		out.filter = chain[0]
	default:
		out.filter = bigtable.ChainFilters(chain...)
	}
	return out
}

// columnPattern returns a regular expression for the qualifiers that a filter selects; ""
// means all. If the exact expression is too long, the expression matches prefixes of the
// qualifiers, and exact is false.
func columnPattern(f rows.Filter) (pattern string, exact bool) {
	if len(f.Qualifiers) == 0 {
		if f.QualifierPrefix == "" {
			return "", true
		}
		n := len(f.QualifierPrefix)
		for p := quote(f.QualifierPrefix); ; p = quote(f.QualifierPrefix[:n]) {
			if len(p)+len(anything) <= maxPattern {
				return p + anything, n == len(f.QualifierPrefix)
			}
			n = min(n/2, maxPattern)
		}
	}
	sorted := slices.Clone(f.Qualifiers)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	longest := 0
	for _, q := range sorted {
		longest = max(longest, len(q))
	}
	if longest == 0 {
		return "(?:)", true
	}
	if p, ok := alternatives(sorted, longest+1); ok {
		return p, true
	}
	best := ""
	for low, high := 1, longest; low <= high; {
		n := (low + high) / 2
		if p, ok := alternatives(cutAll(sorted, n), n); ok {
			best, low = p, n+1
		} else {
			high = n - 1
		}
	}
	return best, false
}

// cutAll truncates sorted texts to n bytes and removes duplicates.
func cutAll(sorted []string, n int) []string {
	out := make([]string, 0, len(sorted))
	for _, q := range sorted {
		q = q[:min(n, len(q))]
		if len(out) == 0 || out[len(out)-1] != q {
			out = append(out, q)
		}
	}
	return out
}

// wanted returns a function that reports whether the filter selects a qualifier.
func wanted(f rows.Filter) func(string) bool {
	if len(f.Qualifiers) == 0 {
		return func(q string) bool { return strings.HasPrefix(q, f.QualifierPrefix) }
	}
	set := make(map[string]struct{}, len(f.Qualifiers))
	for _, q := range f.Qualifiers {
		set[q] = struct{}{}
	}
	return func(q string) bool { _, ok := set[q]; return ok }
}

// anything matches any bytes.
const anything = `\C*`

// patternWriter writes a regular expression for a set of texts, with their common prefixes
// written only once.
type patternWriter struct {
	b    strings.Builder
	open int // a text of this length is a prefix: it matches all texts that begin with it
}

// alternatives returns the pattern of sorted, distinct texts. ok is false if the pattern is
// too long or too deeply nested.
func alternatives(texts []string, open int) (pattern string, ok bool) {
	w := patternWriter{open: open}
	if !w.write(texts, 0, 0) {
		return "", false
	}
	return w.b.String(), true
}

// write writes the pattern of the texts without their first `at` bytes, which they share.
func (w *patternWriter) write(texts []string, at, depth int) bool {
	first, last := texts[0], texts[len(texts)-1]
	shared := at
	for shared < len(first) && first[shared] == last[shared] {
		shared++
	}
	if shared-at > maxPattern || depth > maxNested {
		return false
	}
	w.b.WriteString(quote(first[at:shared]))
	at = shared
	if len(texts) == 1 {
		if at == w.open {
			w.b.WriteString(anything)
		}
		return w.fits()
	}
	ends := len(first) == at // the first text ends here; the others are longer
	if ends {
		texts = texts[1:]
	}
	w.b.WriteString("(?:")
	if !w.branches(texts, at, depth) {
		return false
	}
	w.b.WriteByte(')')
	if ends {
		w.b.WriteByte('?')
	}
	return w.fits()
}

// branches writes the alternatives for texts that differ at byte at: the texts that end
// with that byte as a character class, the others one by one.
func (w *patternWriter) branches(texts []string, at, depth int) bool {
	var leaves []byte
	var groups [][]string
	for len(texts) > 0 {
		n := 1
		for n < len(texts) && texts[n][at] == texts[0][at] {
			n++
		}
		if n == 1 && len(texts[0]) == at+1 {
			leaves = append(leaves, texts[0][at])
		} else {
			groups = append(groups, texts[:n])
		}
		texts = texts[n:]
	}
	if len(leaves) > 0 {
		w.class(leaves)
		if at+1 == w.open {
			w.b.WriteString(anything)
		}
	}
	for i, g := range groups {
		if i > 0 || len(leaves) > 0 {
			w.b.WriteByte('|')
		}
		if !w.fits() || !w.write(g, at, depth+1) {
			return false
		}
	}
	return true
}

// class writes ascending bytes as a character class, with ranges for consecutive bytes.
func (w *patternWriter) class(bytes []byte) {
	w.b.WriteByte('[')
	for i := 0; i < len(bytes); {
		n := i
		for n+1 < len(bytes) && bytes[n+1] == bytes[n]+1 {
			n++
		}
		w.b.WriteString(quote(string(bytes[i : i+1])))
		if n > i+1 {
			w.b.WriteByte('-')
		}
		if n > i {
			w.b.WriteString(quote(string(bytes[n : n+1])))
		}
		i = n + 1
	}
	w.b.WriteByte(']')
}

func (w *patternWriter) fits() bool { return w.b.Len() <= maxPattern }

// exactly returns a filter for the cells of one column. Unlike in a pattern, the bytes of
// the qualifier need no quoting.
func exactly(f rows.Family, qualifier string) bigtable.Filter {
	return bigtable.ColumnRangeFilter(string(f), qualifier, qualifier+"\x00")
}

// quote escapes bytes for RE2 in Bigtable, which matches bytes: all but letters, digits and
// the underscore must be escaped.
func quote(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}
