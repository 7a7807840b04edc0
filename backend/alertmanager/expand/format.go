package expand

import (
	"fmt"
	"reflect"
	"strings"
)

const (
	widest        = 1_000_000 // package fmt rejects larger widths
	quotedBytes   = 5         // maximum number of bytes that %q or %x prints for a byte of a text
	typeBytes     = 64        // for the type of a value, which %#v prints
	formatPerStep = 8
)

// sprint calls a function of package fmt that prints values without a format.
func (f functions) sprint(function func(...any) string, args []any) (string, error) {
	if err := f.printable(args, 1); err != nil {
		return "", err
	}
	out := function(args...)
	return out, f.use(int64(len(out)))
}

// escape calls one of the escapers of text/template. The results of html and urlquery may be printed without being counted
// again, and may be escaped once more in HTML.
func (f functions) escape(function func(...any) string, args []any) (string, error) {
	if err := f.printable(args, escaped); err != nil {
		return "", err
	}
	out := function(args...)
	n := int64(len(out))
	if f.html {
		n *= 2
	}
	return out, f.use(n)
}

// printable returns an error if the arguments as text, times a factor, would exceed the limit of bytes.
func (f functions) printable(args []any, factor int64) error {
	n := int64(0)
	for _, arg := range args {
		e, err := f.measure(reflect.ValueOf(arg), plain)
		if err != nil {
			return err
		}
		n += e.size
	}
	if len(args) == 1 {
		if s, ok := args[0].(string); ok && factor > 1 {
			return f.room(escapedHTML(s))
		}
	}
	return f.room(n * factor)
}

// printf is fmt.Sprintf, whose result can be much longer than its arguments.
func (f functions) printf(format string, args ...any) (string, error) {
	wide, verbs, indexed := widths(format, args)
	n := int64(0)
	for _, arg := range args {
		e, err := f.measure(reflect.ValueOf(arg), plain)
		if err != nil {
			return "", err
		}
		size := e.size
		if strings.ContainsAny(format, "#qxXUb") {
			size = size*quotedBytes + e.elems*typeBytes
		}
		n += size + typeBytes + min(e.elems*wide, int64(f.limits.Bytes)+1)
	}
	if indexed {
		n *= verbs
	}
	n += int64(len(format)) + verbs*(wide+typeBytes)
	if err := f.room(n); err != nil {
		return "", err
	}
	if err := f.work(n / formatPerStep / bytesPerStep); err != nil {
		return "", err
	}
	out := fmt.Sprintf(format, args...)
	return out, f.use(int64(len(out)))
}

// widths returns the largest sum of width and precision of a verb in a format, the number of verbs, and whether a verb has
// an argument index.
func widths(format string, args []any) (wide, verbs int64, indexed bool) {
	star := int64(0)
	for _, arg := range args {
		if v := reflect.ValueOf(arg); v.CanInt() {
			star = max(star, min(widest, max(v.Int(), -max(v.Int(), -widest))))
		} else if v.CanUint() {
			star = max(star, int64(min(widest, v.Uint())))
		}
	}
	for rest := format; ; verbs++ {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			return wide, verbs, indexed
		}
		rest = rest[i+1:]
		var sum, number int64
		for rest != "" && strings.IndexByte("+-# 0123456789.*[]", rest[0]) >= 0 {
			switch c := rest[0]; {
			case c >= '0' && c <= '9':
				number = min(widest, number*10+int64(c-'0'))
			case c == '*':
				number = star
			default:
				indexed = indexed || c == '['
				sum, number = sum+number, 0
			}
			rest = rest[1:]
		}
		wide = max(wide, sum+number)
	}
}
