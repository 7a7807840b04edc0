package rules

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"
)

// expand expands a template for an alert in the same way as Prometheus. Queries return `elements` samples. A label value of the
// alert has `size` bytes, a label value of a sample at most `resultValue` bytes.
func expand(text string, elements, size int) (string, error) {
	queries := 0
	query := func(context.Context, string, time.Time) (promql.Vector, error) {
		if queries++; queries > 100 {
			return nil, errors.New("too many queries")
		}
		var v promql.Vector
		for i := range elements {
			v = append(v, promql.Sample{Metric: labels.FromStrings("instance", fmt.Sprintf("%0*d", min(size, resultValue), i), "job", "j"), F: float64(i)})
		}
		return v, nil
	}
	ls := map[string]string{"instance": strings.Repeat("i", size), "job": "j"}
	data := template.AlertTemplateData(ls, map[string]string{"region": "r"}, "http://x", promql.Sample{F: 1234.5, Metric: labels.FromMap(ls)})
	const before = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"
	return template.NewTemplateExpander(context.Background(), before+text, "__alert_A", data, model.Time(0), query, nil, nil).Expand()
}

// TestUsualTemplates checks that usual templates are accepted, and can be expanded.
func TestUsualTemplates(t *testing.T) {
	for text, want := range map[string]string{
		"{{ $labels.job }} is {{ $value | humanize }}":                                                                               "j is 1.234k",
		`{{ range query "up" }}{{ .Labels.job }}{{ end }}`:                                                                           "jj",
		`{{ range query "up" | sortByLabel "job" }}{{ range $k, $v := .Labels }}{{ $k }},{{ end }}{{ end }}`:                         "instance,job,instance,job,",
		`{{ with query "up" }}{{ . | first | value | printf "%.1f" }}{{ range . }}{{ .Value }}{{ end }}{{ end }}`:                    "0.001",
		`{{ $first := true }}{{ range query "up" }}{{ if not $first }}, {{ end }}{{ $first = false }}{{ . | label "job" }}{{ end }}`: "j, j",
		`{{ $q := query "up" }}{{ if $q }}{{ range $i, $s := $q }}{{ $i }}{{ end }}{{ end }}`:                                        "01",
		`{{ range $k, $v := $labels }}{{ $k }} {{ end }}`:                                                                            "instance job ",
		`{{ reReplaceAll "(.).*" "$1" $labels.instance }}`:                                                                           "i",
		`{{ range query "a" }}{{ range query "b" }}{{ .Value }}{{ end }}{{ end }}`:                                                   "0101",
		`{{ printf "%-10s|%5.2f" $labels.job $value }}`:                                                                              "j         |1234.50",
		`{{ with $x := printf "a%s" $labels.job }}{{ $x }}{{ else }}{{ end }}`:                                                       "aj",
		`{{ (args 1 "b").arg1 }}{{ if match "j|k" $labels.job }}yes{{ end }}`:                                                        "byes",
		`{{ ($value | toTime).Format "2006" }}`:                                                                                      "1970",
	} {
		_, err := checkTemplate(text)
		got := ""
		if err == nil {
			got, err = expand(text, 2, 2)
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

// FuzzTemplates checks that the result of an accepted template is not much larger than estimated, if the results of queries and
// the labels have the assumed sizes.
func FuzzTemplates(f *testing.F) {
	script, _ := os.ReadFile("testdata/bad.txt")
	for line := range strings.Lines(string(script)) {
		if text, ok := strings.CutPrefix(line, "    x: '"); ok {
			f.Add(strings.TrimSuffix(text, "'\n"))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := checkTemplate(text)
		if err != nil {
			return
		}
		// Results of queries in ranges are estimated as an average of many alerts.
		const factor = 16
		if out, err := expand(text, MaxQueryResults, EstimatedValue); err == nil && float64(len(out)) > factor*(c.bytes+1000) {
			t.Fatalf("%d bytes, estimated %.0f", len(out), c.bytes)
		}
	})
}
