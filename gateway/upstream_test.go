package gateway

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestReplay checks that each attempt gets the whole body, whatever the previous one read
// of it.
func TestReplay(t *testing.T) {
	const size = 100_000
	body := strings.Repeat("x", size)
	for _, fails := range []int{0, 1, 2, 3} {
		var got []string
		next := roundTrip(func(r *http.Request) (*http.Response, error) {
			if len(got) < fails {
				part, _ := io.ReadAll(io.LimitReader(r.Body, int64(size/(len(got)+1))))
				got = append(got, string(part))
				return nil, errors.New("backend unreachable")
			}
			all, err := io.ReadAll(r.Body)
			got = append(got, string(all))
			return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, err
		})
		u := newUpstream([]*url.URL{{Scheme: "http", Host: "a"}, {Scheme: "http", Host: "b"}, {Scheme: "http", Host: "c"}}, next, time.Now)
		r, err := http.NewRequest(http.MethodPost, "http://edge/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := u.RoundTrip(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil) != (fails < attempts) || len(got) != min(fails+1, attempts) {
			t.Errorf("%d failures: error %v after %d attempts", fails, err, len(got))
		}
		if err == nil && got[len(got)-1] != body {
			t.Errorf("after %d failures the backend got %d bytes", fails, len(got[len(got)-1]))
		}
	}
}
