package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestKillManySeries repeatedly kills the process while senders push many series at full rate:
// acknowledged samples must not be lost. The senders retry requests that were not acknowledged, so
// that in the end every sample exists once. With CHAOS=long there are 300,000 series and 20 kills,
// some of them while labels are written to the log a second time.
func TestKillManySeries(t *testing.T) {
	series, kills, most := 20_000, 2, 3*time.Second
	if os.Getenv("CHAOS") == "long" {
		series, kills, most = 300_000, 20, 25*time.Second // labels are logged again after 15 s
	}
	p := programs.StartPalliumIn(t, t.TempDir(), unlimited)
	s := &manySeries{t: t, p: p, token: p.Tenant("many", "max_active_series=0", "max_query_samples=0", "max_query_series=0"),
		batches: series / batchSeries, now: time.Now().Add(-time.Hour).UnixMilli()}
	rnd := rand.New(rand.NewSource(time.Now().UnixNano()))
	for kill := range kills {
		ctx, stop := context.WithCancel(t.Context())
		var pushing sync.WaitGroup
		pushing.Go(func() { s.push(ctx) })
		time.Sleep(time.Second + time.Duration(rnd.Int63n(int64(most)))) // the process is killed at a random time
		p.Kill()
		stop()
		pushing.Wait()
		begun := time.Now()
		p.Restart()
		t.Logf("kill %d: %d samples acknowledged; ready after %v", kill, s.acked.Load()*batchSeries, time.Since(begun).Round(time.Millisecond))
	}
	s.finish()
	s.check()
}

// batchSeries is the number of series in one request.
const batchSeries = 2000

// manySeries pushes rounds of samples of many series. Each request is one batch of
// series with one sample each.
type manySeries struct {
	t       *testing.T
	p       *programs.Pallium
	token   string
	batches int
	now     int64

	round int
	left  []int // batches of the round that were not acknowledged yet
	acked atomic.Int64
}

// push continues where the last call stopped, with four concurrent requests, until ctx is done.
func (s *manySeries) push(ctx context.Context) {
	for ctx.Err() == nil {
		if len(s.left) == 0 {
			s.round++
			for i := range s.batches {
				s.left = append(s.left, i)
			}
		}
		s.rest(ctx)
	}
}

// rest sends the remaining batches of the round.
func (s *manySeries) rest(ctx context.Context) {
	var mu sync.Mutex
	var failed []int
	slots := make(chan struct{}, 4)
	var sending sync.WaitGroup
	for _, batch := range s.left {
		slots <- struct{}{}
		sending.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() == nil && s.send(ctx, batch) {
				s.acked.Add(1)
				return
			}
			mu.Lock()
			failed = append(failed, batch)
			mu.Unlock()
		})
	}
	sending.Wait()
	s.left = failed
}

func (s *manySeries) send(ctx context.Context, batch int) bool {
	req := prompb.WriteRequest{}
	for i := range batchSeries {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels: []prompb.Label{{Name: "__name__", Value: "many"}, {Name: "batch", Value: strconv.Itoa(batch)}, {Name: "cluster", Value: "production-europe-west1"},
				{Name: "instance", Value: fmt.Sprintf("10.0.%d.%d:9090", i/250, i%250)}, {Name: "pod", Value: fmt.Sprintf("pod-%d-%d", batch, i)}},
			Samples: []prompb.Sample{{Timestamp: s.now + int64(s.round)*1000, Value: float64(s.round*batchSeries + i)}}})
	}
	data, err := req.Marshal()
	if err != nil {
		s.t.Error(err)
		return false
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, s.p.Edge+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
	if err != nil {
		s.t.Error(err)
		return false
	}
	post.Header.Set("Authorization", "Bearer "+s.token)
	post.Header.Set("Content-Encoding", "snappy")
	post.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := http.DefaultClient.Do(post)
	if err != nil {
		return false // the process was killed
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if code := resp.StatusCode; code/100 == 4 {
		s.t.Errorf("batch %d of round %d: %d %s", batch, s.round, code, body)
	}
	return err == nil && resp.StatusCode/100 == 2
}

// finish sends the remaining batches of the last round.
func (s *manySeries) finish() {
	for len(s.left) > 0 && !s.t.Failed() {
		s.rest(s.t.Context())
	}
}

// check counts the samples of every series.
func (s *manySeries) check() {
	for batch := range s.batches {
		q := url.Values{"time": {strconv.FormatFloat(float64(s.now+int64(s.round)*1000)/1000, 'f', 3, 64)}}
		q.Set("query", fmt.Sprintf(`count(count_over_time(many{batch="%d"}[%ds]) == %d)`, batch, s.round+1, s.round))
		code, body := programs.Do(s.t, http.MethodGet, s.p.Edge+"/prometheus/api/v1/query?"+q.Encode(), s.token, "", nil)
		var answer struct {
			Data struct {
				Result []struct {
					Value [2]any
				}
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || code != http.StatusOK {
			s.t.Fatalf("query: %d %s", code, body)
		}
		if r := answer.Data.Result; len(r) != 1 || r[0].Value[1] != strconv.Itoa(batchSeries) {
			s.t.Errorf("batch %d: number of series with all %d samples = %v, want %d", batch, s.round, r, batchSeries)
		}
	}
}
