package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestSend checks which responses are repeated: those that a busy cluster sends.
func TestSend(t *testing.T) {
	for _, tt := range []struct {
		first, requests int
		ok              bool
	}{{http.StatusCreated, 1, true}, {http.StatusServiceUnavailable, 2, true}, {http.StatusTooManyRequests, 2, true}, {http.StatusBadRequest, 1, false}} {
		n := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n++; n == 1 {
				w.WriteHeader(tt.first)
			}
			if r.Header.Get("Authorization") != "Bearer key" {
				t.Errorf("Authorization is %q", r.Header.Get("Authorization"))
			}
		}))
		if err := send(t.Context(), http.MethodPost, server.URL, "key", "x"); (err == nil) != tt.ok || n != tt.requests {
			t.Errorf("after %d: %v, %d requests; want %d", tt.first, err, n, tt.requests)
		}
		server.Close()
	}
}
