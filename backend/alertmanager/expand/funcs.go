package expand

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"text/template"
	"time"

	commontemplates "github.com/prometheus/common/helpers/templates"
	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// Limits of arguments.
const (
	maxLayout    = 4 << 10 // bytes of a text that is parsed as a time, as the layout of a time, or as a number
	maxZone      = 64      // bytes of the name of a time zone
	zoneSteps    = 300     // each use reads a time zone from a file
	titleSteps   = 100     // for the tables of the title caser
	elementBytes = 16      // memory of an element of a list
	entryBytes   = 64      // memory of an entry of a map
)

// functions implements the functions of one kind of templates: text or HTML.
type functions struct {
	*budget
	regexps *regexps
	weigh   weigh // size of printed texts
	html    bool
}

// all returns the functions that Rewrite inserts, and the replacements of functions of Alertmanager and Go.
func (f functions) all() map[string]any {
	return map[string]any{
		fnStep:  f.step,
		fnEnter: func() (bool, error) { return false, f.enter() },
		fnLeave: func() bool { f.leave(); return false },
		fnPrint: f.printed,
		fnValue: f.value,
		fnArg:   f.arg,
		fnRange: f.ranged,

		"print":        func(a ...any) (string, error) { return f.sprint(fmt.Sprint, a) },
		"println":      func(a ...any) (string, error) { return f.sprint(fmt.Sprintln, a) },
		"printf":       f.printf,
		"html":         func(a ...any) (string, error) { return f.escape(template.HTMLEscaper, a) },
		"js":           func(a ...any) (string, error) { return f.escape(template.JSEscaper, a) },
		"urlquery":     func(a ...any) (string, error) { return f.escape(template.URLQueryEscaper, a) },
		"toUpper":      func(s string) (string, error) { return f.convert(s, strings.ToUpper) },
		"toLower":      func(s string) (string, error) { return f.convert(s, strings.ToLower) },
		"title":        f.title,
		"trimSpace":    func(s string) (string, error) { return strings.TrimSpace(s), f.work(int64(len(s)) / bytesPerStep) },
		"join":         f.join,
		"match":        f.match,
		"reReplaceAll": f.reReplaceAll,
		"urlUnescape":  func(s string) (string, error) { return f.decode(s, url.QueryUnescape) },
		"base64encode": f.base64encode,
		"base64decode": func(s string) (string, error) {
			return f.decode(s, func(s string) (string, error) {
				decoded, err := base64.URLEncoding.DecodeString(s)
				return string(decoded), err
			})
		},
		"stringSlice":      func(s ...string) ([]string, error) { return s, f.use(int64(len(s)) * elementBytes) },
		"date":             f.date,
		"tz":               f.tz,
		"toDate":           f.toDate,
		"mustToDate":       f.mustToDate,
		"humanizeDuration": f.humanizeDuration,
		"toJson":           f.toJSON,
		"list":             f.list,
		"append":           f.append,
		"dict":             f.dict,
	}
}

func (f functions) step(steps, text int) (bool, error) {
	if err := f.work(int64(steps)); err != nil {
		return false, err
	}
	return false, f.use(int64(text))
}

// printed counts the value that an action prints, and returns it unchanged, because escaping depends on its type.
func (f functions) printed(v reflect.Value) (reflect.Value, error) {
	if v.Kind() == reflect.String {
		n := f.weigh(v.String())
		return v, f.use(n)
	}
	e, err := f.measure(v, f.weigh)
	if err != nil {
		return v, err
	}
	return v, f.use(e.size)
}

// value counts the memory that a method allocated for its result.
func (f functions) value(v reflect.Value) (reflect.Value, error) {
	return v, f.work(1 + allocated(v)/bytesPerStep)
}

// arg returns an error if the argument of a method is so large that the method may be expensive.
func (f functions) arg(v reflect.Value) (reflect.Value, error) {
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Map:
		if v.Len() > maxArg {
			return v, f.fail("an argument of a method has %d bytes or elements, the limit is %d: shorten it", v.Len(), maxArg)
		}
	}
	return v, nil
}

// ranged counts the work of sorting a map before the first iteration of a range.
func (f functions) ranged(v reflect.Value) (reflect.Value, error) {
	if v.Kind() == reflect.Map {
		return v, f.work(int64(v.Len()))
	}
	return v, nil
}

// convert calls a function whose result is at most three times as long as its argument.
func (f functions) convert(s string, function func(string) string) (string, error) {
	if err := f.room(3 * int64(len(s))); err != nil {
		return "", err
	}
	out := function(s)
	return out, f.use(int64(len(out)))
}

func (f functions) title(s string) (string, error) {
	if err := f.work(titleSteps + int64(len(s))); err != nil {
		return "", err
	}
	return f.convert(s, cases.Title(language.AmericanEnglish).String)
}

// decode calls a function whose result is not longer than its argument.
func (f functions) decode(s string, function func(string) (string, error)) (string, error) {
	if err := f.room(int64(len(s))); err != nil {
		return "", err
	}
	out, err := function(s)
	if err != nil {
		return "", err
	}
	return out, f.use(int64(len(out)))
}

func (f functions) base64encode(s string) (string, error) {
	if err := f.use(int64(base64.URLEncoding.EncodedLen(len(s)))); err != nil {
		return "", err
	}
	return base64.URLEncoding.EncodeToString([]byte(s)), nil
}

func (f functions) join(sep string, s []string) (string, error) {
	n := int64(len(sep)) * int64(max(0, len(s)-1))
	for _, text := range s {
		n += int64(len(text))
	}
	if err := f.use(n); err != nil {
		return "", err
	}
	return strings.Join(s, sep), f.work(int64(len(s)) / elemsInStep)
}

// layout returns an error for texts that are too long for a parser of times or numbers, whose errors repeat them.
func (f functions) layout(texts ...string) error {
	for _, text := range texts {
		if len(text) > maxLayout {
			return f.fail("a text that is parsed as the layout of a time, as a time or as a number has %d bytes, the limit is %d: shorten it",
				len(text), maxLayout)
		}
		if err := f.work(1 + int64(len(text))/elemsInStep); err != nil {
			return err
		}
	}
	return nil
}

func (f functions) date(layout string, t time.Time) (string, error) {
	if err := f.layout(layout); err != nil {
		return "", err
	}
	out := t.Format(layout)
	return out, f.use(int64(len(out)))
}

// tz returns the time in a time zone. Each call reads the file of the time zone from the database.
func (f functions) tz(name string, t time.Time) (time.Time, error) {
	if err := f.work(zoneSteps); err != nil {
		return time.Time{}, err
	}
	bad := func(r rune) bool {
		return (r|0x20 < 'a' || r|0x20 > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("_+-/", r)
	}
	if len(name) > maxZone || strings.HasPrefix(name, "/") || strings.ContainsFunc(name, bad) {
		return time.Time{}, fmt.Errorf("unknown time zone %.*q", maxZone, name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return time.Time{}, err
	}
	return t.In(loc), nil
}

func (f functions) toDate(layout, s string) (time.Time, error) {
	if err := f.layout(layout, s); err != nil {
		return time.Time{}, err
	}
	t, _ := time.ParseInLocation(layout, s, time.UTC)
	return t, nil
}

func (f functions) mustToDate(layout, s string) (time.Time, error) {
	if err := f.layout(layout, s); err != nil {
		return time.Time{}, err
	}
	return time.ParseInLocation(layout, s, time.UTC)
}

func (f functions) humanizeDuration(v any) (string, error) {
	if s, ok := v.(string); ok {
		if err := f.layout(s); err != nil {
			return "", err
		}
	}
	return commontemplates.HumanizeDuration(v)
}

func (f functions) toJSON(v any) (string, error) {
	if _, err := f.measure(reflect.ValueOf(v), escapedJSON); err != nil {
		return "", err
	}
	out, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return string(out), f.use(int64(len(out)))
}

// contain checks a value that becomes an element of a list or map: the list or map must not be too large to be printed.
func (f functions) contain(v any, depth int) error {
	m := meter{most: int64(f.limits.Bytes) - f.bytes, weigh: plain}
	m.walk(reflect.ValueOf(v), depth)
	if m.deep {
		return f.fail("lists or maps are more than %d levels deep: make them flatter", maxNested)
	}
	if err := f.work(1 + m.elems/elemsInStep); err != nil {
		return err
	}
	return f.room(m.size)
}

func (f functions) list(args ...any) ([]any, error) {
	if args == nil {
		return []any{}, nil
	}
	if err := f.contain(args, 0); err != nil {
		return nil, err
	}
	return args, f.use(int64(len(args)) * elementBytes)
}

// append returns a new list. The result of Alertmanager's function may share memory with the old list, so that a later
// append changes other lists.
func (f functions) append(slice []any, args ...any) ([]any, error) {
	if err := f.use(int64(len(slice)+len(args)) * elementBytes); err != nil {
		return nil, err
	}
	out := make([]any, 0, len(slice)+len(args))
	out = append(append(out, slice...), args...)
	return out, f.contain(out, 0)
}

func (f functions) dict(values ...any) (map[string]any, error) {
	if len(values)%2 != 0 {
		return nil, fmt.Errorf("dict requires an even number of arguments")
	}
	if err := f.use(int64(len(values)/2) * entryBytes); err != nil {
		return nil, err
	}
	out := make(map[string]any, len(values)/2)
	for i := 0; i < len(values); i += 2 {
		key, ok := values[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict keys must be strings")
		}
		out[key] = values[i+1]
	}
	return out, f.contain(out, 0)
}
