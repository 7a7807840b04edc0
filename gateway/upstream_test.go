package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestReplayRoom: what is kept of bodies is bounded for all requests together. A
// body without room is passed on whole and is not sent again; in the end nothing
// is kept.
func TestReplayRoom(t *testing.T) {
	const size = 100_000
	var fails int // of the next attempts
	var got [][]byte
	next := roundTrip(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		got = append(got, body)
		if fails--; fails >= 0 {
			return nil, errors.New("the backend is away")
		}
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
	})
	for _, tt := range []struct {
		name         string
		limit        int64
		others       int64
		fails, tries int
		ok           bool
	}{
		{"no limit", 0, 1 << 40, 1, 2, true},
		{"room", 2 * size, size / 2, 2, 3, true},
		{"no room, no failure", 2 * size, 2*size - 10, 0, 1, true},
		{"no room", 2 * size, 2*size - 10, 1, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			room := &replayRoom{limit: tt.limit}
			room.used.Store(tt.others)
			u := newUpstream([]*url.URL{{Scheme: "http", Host: "a"}, {Scheme: "http", Host: "b"}, {Scheme: "http", Host: "c"}}, next, time.Now, room)
			fails, got = tt.fails, nil
			r, err := http.NewRequest(http.MethodPost, "http://edge/", io.NopCloser(strings.NewReader(strings.Repeat("x", size))))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := u.RoundTrip(r)
			if err == nil {
				_ = resp.Body.Close()
			}
			if (err == nil) != tt.ok || len(got) != tt.tries {
				t.Errorf("error %v after %d attempts, want %d", err, len(got), tt.tries)
			}
			for i, body := range got {
				if !bytes.Equal(body, bytes.Repeat([]byte("x"), size)) {
					t.Errorf("attempt %d got %d bytes", i+1, len(body))
				}
			}
			if used := room.used.Load(); used != tt.others {
				t.Errorf("%d bytes are kept, %d are others'", used, tt.others)
			}
		})
	}
}
