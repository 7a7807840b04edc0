package expand

import (
	"reflect"
	"time"
	"unicode/utf8"
)

const (
	maxNested   = 64  // depth of nested lists and maps, because functions that print them are recursive
	leafBytes   = 32  // a number as text
	timeBytes   = 192 // a time, or a time zone, as text or as JSON
	elementText = 8   // separators and brackets of an element
	escaped     = 6   // the longest escape of a byte
	elemsInStep = 8
)

// weigh returns the maximum number of bytes of a text after escaping.
type weigh func(string) int64

func plain(s string) int64 { return int64(len(s)) }

// escapedHTML is the weigh of HTML. It assumes that every byte is escaped that any escaper of html/template may escape.
func escapedHTML(s string) int64 {
	n := int64(len(s))
	for i := range len(s) {
		c := s[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if c < '0' || c > '9' {
				n += escaped - 1
			}
		}
	}
	return n
}

func escapedJSON(s string) int64 {
	if !utf8.ValidString(s) {
		return int64(len(s)) * escaped
	}
	n := int64(len(s)) + 2
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			n++
		case c < ' ' || c == '<' || c == '>' || c == '&':
			n += escaped - 1
		case c == 0xe2: // the line separators of JavaScript
			n += escaped
		}
	}
	return n
}

// extent is the size of a value as text. A part that the value contains several times counts each time.
type extent struct {
	size  int64 // maximum number of bytes
	elems int64 // number of values
}

// measure returns the extent of a value. It stops when the extent exceeds the limit of bytes. Values are trees: functions
// that make lists and maps copy their arguments, so that no value can contain itself, and reject values that are too large
// or too deep.
func (b *budget) measure(v reflect.Value, w weigh) (extent, error) {
	m := meter{most: int64(b.limits.Bytes) - b.bytes, weigh: w}
	m.walk(v, 0)
	if m.deep {
		return m.extent, b.fail("lists or maps are more than %d levels deep: make them flatter", maxNested)
	}
	if err := b.work(m.elems / elemsInStep); err != nil {
		return m.extent, err
	}
	return m.extent, b.room(m.size)
}

// meter measures one value.
type meter struct {
	extent
	most  int64
	weigh weigh
	deep  bool
}

func (m *meter) walk(v reflect.Value, depth int) {
	m.elems++
	m.size += elementText
	if m.deep = m.deep || depth > maxNested; m.deep || m.size > m.most {
		return
	}
	switch v.Kind() {
	case reflect.String:
		m.size += m.weigh(v.String())
	case reflect.Interface, reflect.Pointer:
		if v.Type() == reflect.TypeFor[*time.Location]() {
			m.size += timeBytes
			return
		}
		m.walk(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		m.sequence(v, depth)
	case reflect.Map:
		for it := v.MapRange(); m.size <= m.most && !m.deep && it.Next(); {
			m.walk(it.Key(), depth+1)
			m.walk(it.Value(), depth+1)
		}
	case reflect.Struct:
		m.structure(v, depth)
	default:
		m.size += leafBytes
	}
}

func (m *meter) sequence(v reflect.Value, depth int) {
	if v.Type().Elem().Kind() == reflect.Uint8 { // the bytes are printed as numbers
		m.elems += int64(v.Len())
		m.size += int64(v.Len()) * escaped
		return
	}
	for i := 0; i < v.Len() && m.size <= m.most && !m.deep; i++ {
		m.walk(v.Index(i), depth+1)
	}
}

func (m *meter) structure(v reflect.Value, depth int) {
	if t := v.Type(); t == reflect.TypeFor[time.Time]() || t == reflect.TypeFor[time.Location]() {
		m.size += timeBytes
		return
	}
	for i := 0; i < v.NumField() && m.size <= m.most && !m.deep; i++ {
		m.size += int64(len(v.Type().Field(i).Name))
		m.walk(v.Field(i), depth+1)
	}
}

// allocated returns the memory of a value in bytes, without the memory to which its elements refer.
func allocated(v reflect.Value) int64 {
	const entry = 64
	switch v.Kind() {
	case reflect.String:
		return int64(v.Len())
	case reflect.Slice:
		return int64(v.Len()) * int64(v.Type().Elem().Size())
	case reflect.Map:
		return int64(v.Len()) * entry
	}
	return 0
}
