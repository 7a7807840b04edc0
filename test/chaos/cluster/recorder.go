package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

const (
	metric    = "chaos_samples"
	writers   = 4
	perWriter = 25 // series; a push has one sample of each
)

// value returns the value that the series must have at the time.
func value(series int, t int64) float64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %d", series, t)
	return float64(h.Sum64()%1_000_000) / 8
}

// push is one request and its outcome.
type push struct {
	t     int64 // time of its samples in Unix milliseconds
	acked bool
	at    time.Time // when the response arrived
}

// Recorder pushes samples until it is stopped. It does not retry failed pushes, so that every
// failure is counted.
type Recorder struct {
	edges []string
	token string
	tick  time.Duration
	http  *http.Client

	mu     sync.Mutex
	pushes [writers][]push
	errs   []string // the last few

	ok, failed           atomic.Int64
	queriesOK, queriesNo atomic.Int64
	stop                 context.CancelFunc
	done                 sync.WaitGroup
}

// NewRecorder creates a recorder and starts it.
func NewRecorder(edges []string, token string, tick time.Duration) *Recorder {
	ctx, stop := context.WithCancel(context.Background())
	r := &Recorder{edges: edges, token: token, tick: tick, stop: stop, http: &http.Client{Timeout: 30 * time.Second}}
	for w := range writers {
		r.done.Go(func() { r.write(ctx, w) })
	}
	return r
}

// Stop stops the pushes.
func (r *Recorder) Stop() {
	r.stop()
	r.done.Wait()
}

func (r *Recorder) write(ctx context.Context, w int) {
	tick := time.NewTicker(r.tick)
	defer tick.Stop()
	last := int64(0)
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t := max(time.Now().UnixMilli(), last+1)
		last = t
		err := r.push(ctx, r.edges[(n+w)%len(r.edges)], w, t)
		if ctx.Err() != nil {
			err = ctx.Err() // may or may not have been accepted
		} else if err == nil {
			r.ok.Add(1)
		} else {
			r.failed.Add(1)
		}
		r.mu.Lock()
		r.pushes[w] = append(r.pushes[w], push{t, err == nil, time.Now()})
		if err != nil && ctx.Err() == nil {
			r.errs = append(r.errs[max(0, len(r.errs)-5):], err.Error())
		}
		r.mu.Unlock()
	}
}

func (r *Recorder) push(ctx context.Context, edge string, w int, t int64) error {
	req := prompb.WriteRequest{}
	for i := range perWriter {
		s := w*perWriter + i
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels: []prompb.Label{
				{Name: "__name__", Value: metric},
				{Name: "series", Value: strconv.Itoa(s)},
				{Name: "writer", Value: strconv.Itoa(w)},
			},
			Samples: []prompb.Sample{{Timestamp: t, Value: value(s, t)}},
		})
	}
	data, err := req.Marshal()
	if err != nil {
		return err
	}
	code, body, err := r.do(ctx, http.MethodPost, edge+"/api/v1/push", snappy.Encode(nil, data))
	if err == nil && code/100 != 2 {
		err = fmt.Errorf("push: %d %s", code, body)
	}
	return err
}

func (r *Recorder) do(ctx context.Context, method, url string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	if method == http.MethodPost {
		req.Header.Set("Content-Encoding", "snappy")
		req.Header.Set("Content-Type", "application/x-protobuf")
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	return resp.StatusCode, out, err
}

// answer is a Prometheus API response with a matrix.
type answer struct {
	Data struct {
		Result []struct {
			Metric map[string]string `json:"metric"`
			Values [][2]any          `json:"values"`
		} `json:"result"`
	} `json:"data"`
}

// Check reads back one writer's samples since from and compares them. It returns an error if the
// query failed; wrong data in a response fails the test.
func (r *Recorder) Check(ctx context.Context, t *testing.T, edge string, w int, from time.Time) error {
	t.Helper()
	begun := time.Now()
	to := begun.Add(time.Second)
	span := to.Sub(from).Milliseconds()
	q := url.Values{
		"query": {fmt.Sprintf(`%s{writer="%d"}[%dms]`, metric, w, span)},
		"time":  {fmt.Sprintf("%.3f", float64(to.UnixMilli())/1000)},
	}
	code, body, err := r.do(ctx, http.MethodGet, edge+"/prometheus/api/v1/query?"+q.Encode(), nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("query: %d %s", code, body)
	}
	if err != nil {
		r.queriesNo.Add(1)
		return err
	}
	r.queriesOK.Add(1)
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		t.Errorf("the response is not JSON: %v", err)
		return nil
	}
	r.compare(t, a, w, to.UnixMilli()-span, begun)
	return nil
}

// compare checks that no acknowledged sample is missing, and that every sample has the
// right value.
func (r *Recorder) compare(t *testing.T, a answer, w int, from int64, begun time.Time) {
	t.Helper()
	r.mu.Lock()
	pushes := slices.Clone(r.pushes[w])
	r.mu.Unlock()
	got := map[int]map[int64]bool{}
	for _, s := range a.Data.Result {
		id, _ := strconv.Atoi(s.Metric["series"])
		got[id] = map[int64]bool{}
		last := int64(math.MinInt64)
		for _, v := range s.Values {
			sec, _ := v[0].(float64)
			text, _ := v[1].(string)
			at := int64(math.Round(sec * 1000))
			f, err := strconv.ParseFloat(text, 64)
			if err != nil || f != value(id, at) || at <= last {
				t.Errorf("series %d: value %s at %d, after the sample at %d; want %v and ascending times", id, text, at, last, value(id, at))
				return
			}
			last = at
			got[id][at] = true
		}
	}
	missing := 0
	for _, p := range pushes {
		// The start of the range is exclusive.
		if !p.acked || p.at.After(begun) || p.t <= from {
			continue
		}
		for i := range perWriter {
			if !got[w*perWriter+i][p.t] {
				if missing++; missing < 4 {
					t.Errorf("series %d has no sample at %d (%s), although it was acknowledged",
						w*perWriter+i, p.t, time.UnixMilli(p.t).UTC().Format(time.TimeOnly))
				}
			}
		}
	}
	if missing > 0 {
		t.Errorf("writer %d: a response with %d series lacks %d acknowledged samples", w, len(a.Data.Result), missing)
	}
}

// Acked returns the number of acknowledged samples.
func (r *Recorder) Acked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for w := range r.pushes {
		for _, p := range r.pushes[w] {
			if p.acked {
				n += perWriter
			}
		}
	}
	return n
}

// Attempted returns the number of samples that were sent.
func (r *Recorder) Attempted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for w := range r.pushes {
		n += len(r.pushes[w]) * perWriter
	}
	return n
}

// tally counts successful and failed pushes and queries.
type tally struct{ ok, failed, queriesOK, queriesNo int64 }

func (r *Recorder) tally() tally {
	return tally{r.ok.Load(), r.failed.Load(), r.queriesOK.Load(), r.queriesNo.Load()}
}

func (t tally) since(o tally) tally {
	return tally{t.ok - o.ok, t.failed - o.failed, t.queriesOK - o.queriesOK, t.queriesNo - o.queriesNo}
}

func (t tally) String() string {
	return fmt.Sprintf("%d of %d pushes failed, %d of %d queries", t.failed, t.ok+t.failed, t.queriesNo, t.queriesOK+t.queriesNo)
}
