// Package unittest runs unit tests of rules in the format of `promtool test rules`: input series, and the expected alerts and
// results of expressions. Prometheus' own code evaluates the rules over a TSDB in a temporary directory.
package unittest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/backend/rules"
)

// File is a file of tests.
type File struct {
	RuleFiles          []string       `yaml:"rule_files"` // file name patterns, relative to the directory of the file
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	GroupEvalOrder     []string       `yaml:"group_eval_order"`
	Tests              []test         `yaml:"tests"`
	FuzzyCompare       bool           `yaml:"fuzzy_compare"`
}

// test contains the input series and the expectations of one test.
type test struct {
	Name            string         `yaml:"name"`
	Interval        model.Duration `yaml:"interval"`
	StartTimestamp  start          `yaml:"start_timestamp"`
	InputSeries     []input        `yaml:"input_series"`
	AlertRuleTests  []alertTest    `yaml:"alert_rule_test"`
	PromQLExprTests []exprTest     `yaml:"promql_expr_test"`
	ExternalLabels  labels.Labels  `yaml:"external_labels"`
	ExternalURL     string         `yaml:"external_url"`
}

type input struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

type alertTest struct {
	EvalTime  model.Duration  `yaml:"eval_time"`
	Alertname string          `yaml:"alertname"`
	ExpAlerts []expectedAlert `yaml:"exp_alerts"`
}

type expectedAlert struct {
	Labels      map[string]string `yaml:"exp_labels"`
	Annotations map[string]string `yaml:"exp_annotations"`
}

type exprTest struct {
	Expr       string           `yaml:"expr"`
	EvalTime   model.Duration   `yaml:"eval_time"`
	ExpSamples []expectedSample `yaml:"exp_samples"`
}

type expectedSample struct {
	Labels    string  `yaml:"labels"`
	Value     float64 `yaml:"value"`
	Histogram string  `yaml:"histogram"` // if set, Value is ignored
}

// start is the time at which a test begins: RFC 3339 or Unix seconds.
type start struct{ time.Time }

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *start) UnmarshalYAML(n *yaml.Node) error {
	if seconds, err := strconv.ParseFloat(n.Value, 64); err == nil {
		s.Time = time.UnixMilli(int64(seconds * 1000)).UTC()
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, n.Value)
	if err != nil {
		return fmt.Errorf("line %d: start_timestamp is %q: it must be a time such as 2026-01-02T15:04:05Z, or Unix seconds", n.Line, n.Value)
	}
	s.Time = t.UTC()
	return nil
}

var errNoTests = errors.New("the file has no tests")

// Parse parses a file of tests. Unknown keys are errors.
func Parse(data []byte) (*File, error) {
	var f File
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errNoTests
	}
	if err := rules.Strict(data, &f); err != nil {
		return nil, err
	}
	if f.EvaluationInterval == 0 {
		f.EvaluationInterval = model.Duration(time.Minute)
	}
	for i, name := range f.GroupEvalOrder {
		if slices.Index(f.GroupEvalOrder, name) < i {
			return nil, fmt.Errorf("group_eval_order contains the group %q twice", name)
		}
	}
	for i := range f.Tests {
		t := &f.Tests[i]
		if t.Interval == 0 {
			t.Interval = f.EvaluationInterval
		}
		if t.Name == "" {
			t.Name = fmt.Sprintf("test %d", i+1)
		}
		if t.StartTimestamp.IsZero() {
			t.StartTimestamp.Time = time.Unix(0, 0).UTC()
		}
		for j := range t.AlertRuleTests {
			if t.AlertRuleTests[j].Alertname == "" {
				return nil, fmt.Errorf("%s: alert_rule_test %d has no alertname", t.Name, j+1)
			}
		}
	}
	if len(f.Tests) == 0 {
		return nil, errNoTests
	}
	return &f, nil
}

// end returns the time of the last expectation of a test.
func (t *test) end() time.Time {
	var last model.Duration
	for i := range t.AlertRuleTests {
		last = max(last, t.AlertRuleTests[i].EvalTime)
	}
	for i := range t.PromQLExprTests {
		last = max(last, t.PromQLExprTests[i].EvalTime)
	}
	return t.StartTimestamp.Add(time.Duration(last))
}
