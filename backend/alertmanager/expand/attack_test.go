package expand

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// most is the maximum of bytes that an attempt may allocate in total, including garbage. It is a multiple of the limit of
// bytes, because buffers grow in steps, plus a few bytes for each step.
const most = 40 << 20

// attack is a text or a file that would use much time, memory or stack without limits.
type attack struct {
	text string
	file string // content of a template file
	want string // part of the error
}

const (
	tooManySteps = "more than 200000 steps"
	tooManyBytes = "produce more than 1048576 bytes"
)

// attacks returns attacks whose execution must fail.
func attacks() map[string]attack {
	double := "{{ $x := \"ab\" }}{{ range 100 }}{{ $x = %s }}{{ end }}"
	long := "{{ $long := \"ab\" }}{{ range 15 }}{{ $long = print $long $long }}{{ end }}"
	out := map[string]attack{
		"a range over a large number":       {text: "{{ range 1000000000 }}{{ end }}", want: tooManySteps},
		"nested ranges":                     {text: strings.Repeat("{{ range 100 }}", 5) + strings.Repeat("{{ end }}", 5), want: tooManySteps},
		"a range that continues":            {text: "{{ range 1000000000 }}{{ continue }}{{ end }}", want: tooManySteps},
		"a range with a variable":           {text: "{{ range $i := 1000000000 }}{{ if $i }}{{ end }}{{ end }}", want: tooManySteps},
		"text in a range":                   {text: "{{ range 1000000000 }}" + strings.Repeat("x", 10000) + "{{ end }}", want: tooManyBytes},
		"a literal in a range":              {text: "{{ range 1000000000 }}{{ \"" + strings.Repeat("x", 10000) + "\" }}{{ end }}", want: tooManyBytes},
		"white space in a range":            {text: "{{ range 1000000000 }}" + strings.Repeat(" ", 10000) + "{{ end }}", want: tooManyBytes},
		"calls of a blank template":         {text: "{{ range 1000000000 }}{{ template \"b\" }}{{ end }}", file: "{{ define \"b\" }}" + strings.Repeat(" ", 64) + "{{ end }}", want: tooManyBytes},
		"calls of a default":                {text: "{{ range 1000000000 }}{{ template \"slack.default.title\" $ }}{{ end }}", want: "more than"},
		"a redefined default":               {text: "{{ template \"email.default.subject\" . }}", file: "{{ define \"__subject\" }}{{ range 1000000000 }}x{{ end }}{{ end }}", want: tooManySteps},
		"a doubled text":                    {text: fmt.Sprintf(double, "print $x $x"), want: tooManyBytes},
		"a text doubled by printf":          {text: fmt.Sprintf(double, "printf \"%s%s\" $x $x"), want: tooManyBytes},
		"a text doubled by println":         {text: fmt.Sprintf(double, "println $x $x"), want: tooManyBytes},
		"a text doubled by an index":        {text: fmt.Sprintf(double, "printf \"%[1]s%[1]s\" $x"), want: tooManyBytes},
		"a text doubled by join":            {text: fmt.Sprintf(double, "join $x (stringSlice $x $x)"), want: tooManyBytes},
		"a text doubled by a replacement":   {text: fmt.Sprintf(double, "reReplaceAll \".*\" \"$0$0\" $x"), want: "more than"},
		"a text that is escaped again":      {text: "{{ $x := \"<&\" }}{{ range 100 }}{{ $x = html $x $x }}{{ end }}", want: tooManyBytes},
		"a script that is escaped again":    {text: "{{ $x := \"\\\\<\" }}{{ range 100 }}{{ $x = js $x }}{{ end }}", want: tooManyBytes},
		"a query that is escaped again":     {text: fmt.Sprintf(double, "urlquery (print $x \" %\" $x)"), want: tooManyBytes},
		"base64 of base64":                  {text: fmt.Sprintf(double, "base64encode $x"), want: tooManyBytes},
		"JSON of JSON":                      {text: "{{ $x := \"\\\"\" }}{{ range 100 }}{{ $x = toJson $x }}{{ end }}", want: tooManyBytes},
		"a wide format":                     {text: "{{ range 1000 }}{{ printf \"%1000000d\" 1 }}{{ end }}", want: tooManyBytes},
		"a wide format of many":             {text: "{{ $x := list 1 }}{{ range 100 }}{{ $x = append $x . }}{{ end }}{{ printf \"%900000d\" $x }}", want: tooManyBytes},
		"a wide format by an argument":      {text: "{{ printf \"%*d%*d%*d%*d%*d%*d\" 999999 1 999999 1 999999 1 999999 1 999999 1 999999 1 }}", want: tooManyBytes},
		"a precise format":                  {text: "{{ range 1000 }}{{ printf \"%.1000000f\" 1.5 }}{{ end }}", want: tooManyBytes},
		"lists of lists":                    {text: "{{ $x := list 1 2 }}{{ range 30 }}{{ $x = list $x $x }}{{ end }}{{ $x }}", want: tooManyBytes},
		"maps of maps":                      {text: "{{ $x := dict \"a\" 1 }}{{ range 30 }}{{ $x = dict \"a\" $x \"b\" $x }}{{ end }}{{ toJson $x }}", want: tooManyBytes},
		"a deep list":                       {text: "{{ $x := list 1 }}{{ range 100000 }}{{ $x = list $x }}{{ end }}{{ $x }}", want: "levels deep"},
		"a list in itself":                  {text: "{{ $a := append (list 1 2 3) 4 }}{{ $b := append $a 5 }}{{ $c := append $a $b }}{{ $d := append $b $c }}{{ range 40 }}{{ $d = append $d $d $d }}{{ end }}{{ $d }}", want: tooManyBytes},
		"a list that is compared":           {text: "{{ $x := list 1 2 }}{{ range 30 }}{{ $x = append $x $x $x }}{{ end }}{{ eq $x $x }}", want: tooManyBytes},
		"a list that grows":                 {text: "{{ $x := list }}{{ range 1000000 }}{{ $x = append $x . }}{{ end }}", want: "more than"},
		"the alerts copied":                 {text: "{{ range 1000000 }}{{ if $.Alerts.Firing }}{{ end }}{{ end }}", want: tooManySteps},
		"an expensive expression":           {text: long + "{{ match \"(x+x+)+y\" $long }}{{ range 100 }}{{ match \"(a|b|ab)*c(a|b|ab)*d\" $long }}{{ end }}", want: "more than"},
		"a repeated repetition":             {text: "{{ match \"(((ab|cd|e.){30}){30})\" \"a\" }}", want: "compiles to more than"},
		"a long expression":                 {text: long + "{{ match $long \"a\" }}", want: "a regular expression has"},
		"a long replacement":                {text: long + "{{ reReplaceAll \"x*\" $long $long }}", want: tooManyBytes},
		"a quadratic expression":            {text: "{{ $x := \"ab\" }}{{ range 15 }}{{ $x = print $x $x }}{{ end }}{{ range 100 }}{{ reReplaceAll \"a(.*c)?\" \"\" $x }}{{ end }}", want: tooManySteps},
		"a long layout":                     {text: long + "{{ date $long now }}", want: "the limit is 4096"},
		"a long layout of a method":         {text: long + "{{ now.Format $long }}", want: "the limit is 1024"},
		"a long layout through a pipe":      {text: long + "{{ $long | now.Format }}", want: "the limit is 1024"},
		"a long separator":                  {text: long + "{{ .CommonLabels.Values.Join $long }}", want: "the limit is 1024"},
		"a long separator through a method": {text: long + "{{ $long | .CommonLabels.Values.Join }}", want: "the limit is 1024"},
		"files of time zones":               {text: "{{ range 1000000 }}{{ $t := tz \"Europe/Paris\" now }}{{ end }}", want: tooManySteps},
		"a deep call":                       {text: "{{ routeLabels \"a\" }}{{ range 1000000000 }}{{ $x := routeLabels \"a\" }}{{ end }}", want: tooManySteps},
		"pipelines of titles":               {text: long + "{{ range 1000 }}{{ $x := title $long }}{{ end }}", want: "more than"},
	}
	return out
}

// TestAttacks checks that each attack fails with the error of a limit, and does not allocate too much memory.
func TestAttacks(t *testing.T) {
	defer goleak.VerifyNone(t)
	for name, a := range attacks() {
		for _, html := range []bool{false, true} {
			l := Limits{Steps: 200_000, Bytes: 1 << 20, Depth: 100, Time: time.Hour} // so that the limits of steps and bytes end the attacks
			templates := newTemplates(t, map[string]string{"f": a.file}, l)
			text, err := Rewrite("field", a.text)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			execute := templates.Template().ExecuteTextString
			if html {
				execute = templates.Template().ExecuteHTMLString
			}
			data := dataOf(t, 3, 1)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = execute(text, data)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), a.want) || templates.Err() == nil || !errors.Is(err, templates.Err()) {
				t.Errorf("%s, html %v: error %.300v, limit %v, want %q", name, html, err, templates.Err(), a.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > most {
				t.Errorf("%s, html %v: allocated %d MiB in total", name, html, n>>20)
			}
			if _, err := templates.Template().ExecuteTextString("{{ .Status | _bound_print }}", data); err == nil {
				t.Errorf("%s: a template was executed after the error", name)
			}
			templates.Begin(context.Background())
			if err := templates.Err(); err != nil {
				t.Errorf("%s: error after Begin: %v", name, err)
			}
		}
	}
}
