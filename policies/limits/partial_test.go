package limits

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestDescribeIsComplete compares the descriptions with the struct: names, order, tags
// and units.
func TestDescribeIsComplete(t *testing.T) {
	typ := reflect.TypeFor[Limits]()
	ds := Describe()
	if len(ds) != typ.NumField() {
		t.Fatalf("%d descriptions for %d limits", len(ds), typ.NumField())
	}
	for i, d := range ds {
		f := typ.Field(i)
		if f.Tag.Get("yaml") != d.Name || f.Tag.Get("json") != d.Name {
			t.Errorf("description %d is %s, but the field is %s with yaml %q, json %q", i, d.Name, f.Name, f.Tag.Get("yaml"), f.Tag.Get("json"))
		}
		fits := map[string][]Unit{"float64": {PerSecond, CPUs}, "int": {Count, Bytes}, "int64": {Bytes}, "model.Duration": {Time}, "bool": {Switch}, "string": {LabelName, Queries, Namespaces}}[f.Type.String()]
		if !slices.Contains(fits, d.Unit) {
			t.Errorf("%s: unit %s does not fit type %s", d.Name, d.Unit, f.Type)
		}
		if d.Meaning == "" || d.Zero == "" {
			t.Errorf("%s has no description", d.Name)
		}
	}
	if err := Default().Check(); err != nil {
		t.Error(err)
	}
}

func TestMerge(t *testing.T) {
	var plan, over Partial
	if err := json.Unmarshal([]byte(`{"max_active_series": 10, "retention": "30d", "requests_per_second": 2.5}`), &plan); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte("max_active_series: 0\npast_grace: 1h30m\nmax_body_bytes: 5\naccept_ha_samples: true\nha_replica_label: \"true\"\nquery_timeout: 0\nblocked_queries: |\n  up\n  ~.*a.*\n"), &over); err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.MaxActiveSeries, want.Retention, want.RequestsPerSecond = 0, Duration(30*24*time.Hour), 2.5
	want.AcceptHASamples, want.HAReplicaLabel, want.BlockedQueries = true, "true", "up\n~.*a.*\n"
	want.PastGrace, want.MaxBodyBytes, want.QueryTimeout = Duration(90*time.Minute), 5, 0
	if got := Merge(Default(), plan, over); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := Merge(Default(), Partial{}); got != Default() {
		t.Errorf("an empty document changed %+v", got)
	}
	text, err := json.Marshal(over)
	if want := `{"accept_ha_samples":true,"blocked_queries":"up\n~.*a.*\n","ha_replica_label":"true","max_active_series":0,"max_body_bytes":5,"past_grace":"1h30m","query_timeout":"0s"}`; err != nil || string(text) != want {
		t.Errorf("JSON is %s, %v", text, err)
	}
	for _, encode := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		b, err := encode(over)
		if err != nil {
			t.Fatal(err)
		}
		var back Partial
		if err := yaml.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, over) {
			t.Errorf("decoding of %s = %v, %v", b, back, err)
		}
	}
}

func TestRejections(t *testing.T) {
	for doc, want := range map[string]string{
		`{"max_activ_series": 1}`:                  `unknown limit "max_activ_series"; did you mean "max_active_series"?`,
		`{"maxActiveSeries": 1}`:                   `did you mean "max_active_series"?`,
		`{"samples_per_sec": 1}`:                   `did you mean "samples_per_second"?`,
		`{"max_active_series": -1}`:                `limit max_active_series: -1 is not allowed: it must be a whole number from 0 (unlimited)`,
		`{"max_active_series": 1.5}`:               `limit max_active_series: "1.5" is not allowed`,
		`{"max_active_series": "5"}`:               `limit max_active_series: "5" is not allowed`,
		`{"max_active_series": 1e30}`:              `"1e30" is not allowed`,
		`{"max_active_series": null}`:              `<nil> is not allowed`,
		`{"max_active_series": [1]}`:               `is not allowed`,
		`{"max_active_series": true}`:              `limit max_active_series: true is not allowed`,
		`{"retention": 30}`:                        `limit retention: 30 is not allowed: it must be a duration such as 90s, 1h30m or 14d, from 0s (forever)`,
		`{"retention": "30 days"}`:                 `limit retention: "30 days" is not allowed`,
		`{"retention": "-1d"}`:                     `limit retention: "-1d" is not allowed`,
		`{"retention": "101y"}`:                    `limit retention: 101y is not allowed`,
		`{"requests_per_second": -0.1}`:            `limit requests_per_second: -0.1 is not allowed: it must be a number from 0`,
		`{"byte_burst": 1, "byte_burst": 2}`:       `limit byte_burst appears twice`,
		`{"accept_ha_samples": "true"}`:            `limit accept_ha_samples: "true" is not allowed: it must be true or false`,
		`{"accept_ha_samples": 1}`:                 `limit accept_ha_samples: "1" is not allowed`,
		`{"ha_cluster_label": 1}`:                  `limit ha_cluster_label: 1 is not allowed: it must be a label name`,
		`{"ha_cluster_label": true}`:               `limit ha_cluster_label: true is not allowed`,
		`{"ha_cluster_label": ""}`:                 `limit ha_cluster_label:  is not allowed`,
		`{"ha_replica_label": "__name__"}`:         `limit ha_replica_label: __name__ is not allowed`,
		`{"blocked_queries": ["up"]}`:              `limit blocked_queries: [up] is not allowed: it must be a text with at most 100 queries, one in each line, or regular expressions after ~`,
		`{"blocked_queries": 1}`:                   `limit blocked_queries: 1 is not allowed`,
		`{"protected_rule_namespaces": "a\u0000"}`: `limit protected_rule_namespaces: a`,
		`{"protected_rule_namespaces": ["a"]}`:     `limit protected_rule_namespaces: [a] is not allowed: it must be a text with at most 100 namespaces of rules`,
		`{"blocked_queries": true}`:                `limit blocked_queries: true is not allowed`,
		`{"blocked_queries": "up\n~a("}`:           `limit blocked_queries: line 2: error parsing regexp: missing closing )`,
		`[1]`:                                      `must be an object`,
	} {
		var p Partial
		err := json.Unmarshal([]byte(doc), &p)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", doc, err, want)
		}
		var e *Error
		if !errors.As(err, &e) && doc != `[1]` {
			t.Errorf("%s: error of type %T", doc, err)
		}
	}
	for _, doc := range []string{"- 1", "x: 1", "retention: 30", "retention: {}", "max_active_series: .inf", "requests_per_second: .nan", "max_active_series: \"1\"", "accept_ha_samples: yes", "ha_cluster_label: true", "ha_cluster_label: 7"} {
		var p Partial
		if err := yaml.Unmarshal([]byte(doc), &p); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%s: %v", doc, err)
		}
	}
	var p Partial
	if err := p.Set("requests_per_second", "NaN"); err == nil {
		t.Error("Set accepted NaN")
	}
	if err := p.Unset("nonsense"); err == nil {
		t.Error("Unset accepted an unknown limit")
	}
}

func TestSetUnset(t *testing.T) {
	var p Partial
	for k, v := range map[string]string{"retention": "90d", "max_exemplars": "7"} {
		if err := p.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	c := p
	if err := c.Unset("retention"); err != nil {
		t.Fatal(err)
	}
	if v, ok := p.Get("retention"); !ok || v != "90d" {
		t.Errorf("retention is %q, %v", v, ok)
	}
	if got := c.Keys(); !slices.Equal(got, []string{"max_exemplars"}) {
		t.Errorf("keys %v", got)
	}
}

func FuzzPartial(f *testing.F) {
	f.Add([]byte(`{"retention":"1d","max_exemplars":7}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		var p Partial
		if json.Unmarshal(doc, &p) != nil {
			return
		}
		if err := Merge(Default(), p).Check(); err != nil {
			t.Errorf("%s decoded to limits out of range: %v", doc, err)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back Partial
		if err := json.Unmarshal(text, &back); err != nil || Merge(Default(), back) != Merge(Default(), p) {
			t.Errorf("decoding of %s = %v, %v", text, back, err)
		}
	})
}

// TestLines checks how a list of namespaces is read.
func TestLines(t *testing.T) {
	for text, want := range map[string][]string{"": nil, "\n \n": nil, "a": {"a"}, " a/b c \r\n\nd": {"a/b c", "d"}} {
		if got := Lines(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
