package chaos

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// checkRangeVectors reads the floats of a tenant with PromQL's range selector and
// compares them with the response of remote read: two ways to the same samples.
func checkRangeVectors(t *testing.T, p *programs.Pallium, tn *tenantUnderTest) {
	t.Helper()
	want := map[sampleKey]bool{}
	for _, s := range mustReadAll(t, p, tn.token) {
		if s.labels.Get(model.MetricNameLabel) == "chaos_float" {
			for _, pt := range s.points {
				want[sampleKey{s.labels.String(), pt.t}] = true
			}
		}
	}
	data := programs.Query(t, p.Edge+"/prometheus", tn.token, "query", url.Values{
		"query": {"chaos_float[5d]"}, "time": {strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)},
	})
	var answer struct {
		Result []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		t.Fatal(err)
	}
	var wrong faults
	n := 0
	for _, s := range answer.Result {
		key := labels.FromMap(s.Metric).String()
		for _, v := range s.Values {
			n++
			at := int64(v[0].(float64)*1000 + 0.5)
			if !want[sampleKey{key, at}] {
				wrong.add("%s at %d is only in the range vector", key, at)
			}
			got, err := strconv.ParseFloat(fmt.Sprint(v[1]), 64)
			if want := floatOf(key, at); err != nil || got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
				wrong.add("%s at %d is %v", key, at, v[1])
			}
		}
	}
	if wrong.n > 0 || n != len(want) || n == 0 {
		t.Errorf("range vector has %d samples, remote read %d:\n%s", n, len(want), wrong.text)
	}
}
