package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestAbortedResponse checks that a response that a backend aborts in the middle, such as that of
// federate after an error, does not look complete to the client.
func TestAbortedResponse(t *testing.T) {
	for _, mode := range modes {
		for _, abort := range []bool{true, false} {
			e := newEdge(t, mode, nil)
			e.backend.answer = func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, strings.Repeat("up 1\n", 10_000))
				if abort {
					panic(http.ErrAbortHandler)
				}
			}
			r, err := http.NewRequest(http.MethodGet, "http://"+e.addr+"/prometheus/federate?match[]=up", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+e.cred["$A"])
			client := &http.Client{Transport: &http.Transport{}}
			resp, err := client.Do(r)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			client.CloseIdleConnections()
			if (err != nil) != abort {
				t.Errorf("%s, aborted %v: %v", mode, abort, err)
			}
		}
	}
}
