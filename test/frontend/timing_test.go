package frontend

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// timings checks that the answers of all backends of a cluster have times in the Server-Timing
// header and in the statistics, and that a part of an answer is from the cache. The times
// come from queriers, frontends and the cache, which are other processes.
func timings(w *world, s *clustered) {
	q := url.Values{"query": {"sum(rate(requests_total[1h]))"}, "start": {seconds(w.start)}, "end": {seconds(w.start + 3*day)},
		"step": {seconds(10 * minute)}, "stats": {"true"}}
	cached := false
	for range 2 { // the second time from the cache
		for _, edge := range s.urls() {
			req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, edge+"/prometheus/api/v1/query_range?"+q.Encode(), nil)
			if err != nil {
				w.t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+w.tokens[0])
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				w.t.Fatal(err)
			}
			var got struct {
				Data struct {
					Stats struct {
						Pallium struct {
							Timings                     map[string]float64
							StoreReads                  int64
							CachedSteps, EvaluatedSteps int64
							Parts                       []struct{ Day, Source string }
						}
					}
				}
			}
			err = json.NewDecoder(resp.Body).Decode(&got)
			_ = resp.Body.Close()
			header := resp.Header.Get("Server-Timing")
			n := &got.Data.Stats.Pallium
			if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(header, "response_time;dur=") || len(n.Parts) == 0 ||
				n.CachedSteps+n.EvaluatedSteps != 3*24*6+1 {
				w.t.Fatalf("%d %v, Server-Timing %q, %+v", resp.StatusCode, err, header, *n)
			}
			if n.EvaluatedSteps > 0 && (n.Timings["querierWallTime"] <= 0 || n.Timings["engineTime"] <= 0 || n.Timings["ingestersTime"] <= 0) {
				w.t.Errorf("%d steps were evaluated: %+v", n.EvaluatedSteps, n.Timings)
			}
			for _, p := range n.Parts {
				cached = cached || p.Source == "cache"
			}
			w.t.Logf("Server-Timing: %s", header)
		}
	}
	if !cached {
		w.t.Error("no part was from the cache")
	}
}
