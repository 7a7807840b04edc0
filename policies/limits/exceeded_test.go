package limits

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestExceeded checks the text of every limit that can be exceeded.
func TestExceeded(t *testing.T) {
	lim := Limits{
		RequestsPerSecond: 2, RequestBurst: 3, SamplesPerSecond: 0.5, BytesPerSecond: 100, ByteBurst: 7, MaxBodyBytes: 5, MaxDecodedBytes: 6,
		MaxConcurrentRequests: 2, MaxActiveSeries: 3, MaxLabelsPerSeries: 4, MaxLabelNameLength: 10, MaxLabelValueLength: 20,
		MaxHistogramBuckets: 8, HAMaxClusters: 1, PastGrace: Duration(time.Hour), FutureGrace: Duration(time.Minute),
		Retention: Duration(24 * time.Hour), MaxQueryRange: Duration(time.Hour), MaxQuerySteps: 9, MaxQuerySeries: 2, MaxQuerySamples: 100,
		QueryTimeout: Duration(time.Millisecond), MaxQueryLength: 3, MaxQueuedQueries: 1, MaxRegexInstructions: 50, MaxMemoryBytes: 32768,
		MaxRuleGroups: 2, MaxRulesPerGroup: 3, MaxRuleResults: 4,
	}
	texts := map[Limit]struct {
		used int64
		text string
	}{
		RequestsPerSecond:     {4, "limit requests_per_second of 2 requests/s (burst 3) exceeded: 4 requests are in progress and the budget is used up; send less, or ask the administrator for a higher limit"},
		SamplesPerSecond:      {7, "limit samples_per_second of 0.5 samples/s exceeded: 7 samples were written beyond the budget; send less, or ask the administrator for a higher limit"},
		BytesPerSecond:        {150, "limit bytes_per_second of 100 bytes/s (burst 7) exceeded: 150 bytes were sent beyond the budget; send less, or ask the administrator for a higher limit"},
		MaxBodyBytes:          {More, "limit max_body_bytes of 5 bytes exceeded: the request body has more; send smaller requests"},
		MaxDecodedBytes:       {7, "limit max_decoded_bytes of 6 bytes exceeded: the request body has 7 bytes after decompression; send smaller requests"},
		MaxConcurrentRequests: {2, "limit max_concurrent_requests of 2 requests exceeded: 2 requests are in progress; send less, or ask the administrator for a higher limit"},
		MaxActiveSeries:       {3, "limit max_active_series of 3 series exceeded: 3 series are already active; drop labels with many values, or ask the administrator for a higher limit"},
		MaxLabelsPerSeries:    {5, "limit max_labels_per_series of 4 labels exceeded: a series has 5 labels; drop labels with a relabeling rule"},
		MaxLabelNameLength:    {11, "limit max_label_name_length of 10 bytes exceeded: a label name has 11 bytes; shorten it with a relabeling rule"},
		MaxLabelValueLength:   {21, "limit max_label_value_length of 20 bytes exceeded: a label value has 21 bytes; shorten it with a relabeling rule"},
		MaxHistogramBuckets:   {9, "limit max_histogram_buckets of 8 buckets exceeded: a native histogram whose resolution cannot be reduced further has 9 buckets; use fewer buckets"},
		HAMaxClusters:         {More, "limit ha_max_clusters of 1 clusters exceeded: the cluster label has more as values; send from fewer groups of replicas, and keep the values of the cluster label stable"},
		PastGrace:             {More, "limit past_grace of 1h exceeded: a sample is older; send samples sooner, or ask the administrator for a higher limit"},
		FutureGrace:           {More, "limit future_grace of 1m exceeded: a sample is further ahead; check the sender's clock"},
		Retention:             {More, "limit retention of 1d exceeded: a sample is older; send newer samples, or ask the administrator for a higher limit"},
		MaxQueryRange:         {7_200_000, "limit max_query_range of 1h exceeded: the query spans 2h; query a shorter range"},
		MaxQuerySteps:         {10, "limit max_query_steps of 9 steps exceeded: the query has 10 steps; use a longer step or a shorter range"},
		MaxQuerySeries:        {More, "limit max_query_series of 2 series exceeded: the query selects more; select fewer series with more specific matchers, or a shorter range"},
		MaxQuerySamples:       {More, "limit max_query_samples of 100 samples exceeded: the query holds more in memory; select fewer series, a shorter range or a longer step"},
		QueryTimeout:          {More, "limit query_timeout of 1ms exceeded: the query took longer; select fewer series, a shorter range or a longer step"},
		MaxQueryLength:        {4, "limit max_query_length of 3 bytes exceeded: the expressions and selectors of the request have 4 bytes; send shorter ones, or fewer in one request"},
		MaxQueuedQueries:      {1, "limit max_queued_queries of 1 queries exceeded: 1 queries are waiting; try again later, or send fewer queries at the same time"},
		MaxRegexInstructions:  {More, "limit max_regex_instructions of 50 instructions exceeded: the regular expressions of the request compile to more; use fewer repetitions (x{1000}), classes and alternatives"},
		MaxRuleGroups:         {3, "limit max_rule_groups of 2 groups exceeded: the tenant would have 3 groups; delete groups that are not needed, or put their rules into fewer groups"},
		MaxRulesPerGroup:      {4, "limit max_rules_per_group of 3 rules exceeded: the group has 4 rules; divide it into several groups"},
		MaxRuleResults:        {More, "limit max_rule_results of 4 series exceeded: the rule returned more; aggregate more, or select fewer series"},
		MaxMemoryBytes:        {40000, "limit max_memory_bytes of 32768 bytes exceeded: the request needs at least 40000 bytes of memory; select fewer series, a shorter range or a longer step"},
	}
	for i, d := range Describe() {
		l := Limit(i)
		want, ok := texts[l]
		if ok != (d.Use != "") {
			t.Errorf("%s: tested = %v, but the declared text of the use is %q", d.Name, ok, d.Use)
		}
		if !ok {
			continue
		}
		e := l.Exceeded(&lim, want.used)
		if e.Error() != want.text || e.Name() != d.Name || !e.Of(l) {
			t.Errorf("%s: got  %s\nwant %s", e.Name(), e, want.text)
		}
	}
}

// TestDeclarations checks what the compiler cannot check in the declarations.
func TestDeclarations(t *testing.T) {
	fields := reflect.TypeFor[Limits]()
	for i, d := range Describe() {
		if f := fields.Field(i); f.Tag.Get("yaml") != d.Name || f.Tag.Get("json") != d.Name || f.Type != reflect.TypeOf(d.Default) {
			t.Errorf("%s has the field %s %s `%s`", d.Name, f.Name, f.Type, f.Tag)
		}
		if d.Name != Limit(i).Name() || d.Meaning == "" || d.Zero == "" {
			t.Errorf("incomplete description: %+v", d)
		}
		if (d.Use == "") != (d.Hint == "") || d.Use != "" && d.Counts == "" && (d.Unit == Count || d.Unit == PerSecond) {
			t.Errorf("%s: the error would be incomplete: use %q, hint %q, counts %q", d.Name, d.Use, d.Hint, d.Counts)
		}
		if burst, err := find(d.Burst); d.Burst != "" && (err != nil || Describe()[burst].Zero != "one second's worth") {
			t.Errorf("%s: burst %q: %v", d.Name, d.Burst, err)
		}
	}
	if err := Default().Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if err := (Limits{MaxQuerySteps: maxSteps + 1, HAClusterLabel: "a", HAReplicaLabel: "b"}).Check(); err == nil {
		t.Error("Check accepted more steps than possible")
	}
}

// TestExceededJSON checks the encoding, which processes of other versions read and write.
func TestExceededJSON(t *testing.T) {
	e := MaxQuerySeries.ExceededAt(2, More).With(" than that")
	data, err := json.Marshal(e)
	const want = `{"Name":"max_query_series","Limit":"2 series","Use":"the query selects more than that","Hint":"select fewer series with more specific matchers, or a shorter range"}`
	if err != nil || string(data) != want {
		t.Errorf("got  %s, %v\nwant %s", data, err, want)
	}
	var back Exceeded
	if err := json.Unmarshal(data, &back); err != nil || back != *e {
		t.Errorf("decoded = %+v, %v", back, err)
	}
	later := `{"Name":"max_of_a_later_version","Limit":"1","Use":"2"}`
	if err := json.Unmarshal([]byte(later), &back); err != nil || back.Name() != "max_of_a_later_version" || back.Of(MaxQuerySeries) {
		t.Errorf("an unknown limit: %+v, %v", back, err)
	}
	if s := MaxQueryRange.ExceededAt(1000, 1<<62).Error(); !strings.Contains(s, "of 1s exceeded: the query spans 290y") {
		t.Errorf("a very long range: %q", s)
	}
}

func BenchmarkExceeded(b *testing.B) {
	lim := Default()
	for b.Loop() {
		_, _ = MaxActiveSeries.Exceeded(&lim, 3).Reason()
	}
}
