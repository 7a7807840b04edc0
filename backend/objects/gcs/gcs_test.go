package gcs

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	"google.golang.org/api/option"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/objecttest"
	"github.com/palliumhq/pallium/backend/objects/retried"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestContract runs the contract of objects.Store against fake-gcs-server, with
// and without a prefix in the bucket.
func TestContract(t *testing.T) {
	url := programs.GCS(t)
	n := 0
	for _, prefix := range []string{"", "some/where/"} {
		objecttest.Run(t, func(t *testing.T) objects.Store {
			n++
			bucket := fmt.Sprintf("bucket-%d", n)
			makeBucket(t, url, bucket)
			s, err := Open(context.Background(), Options{Bucket: bucket, Prefix: prefix, Endpoint: url})
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	}
}

func makeBucket(t *testing.T, url, bucket string) {
	t.Helper()
	c, err := storage.NewClient(context.Background(), option.WithEndpoint(url+"/storage/v1/"), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Bucket(bucket).Create(context.Background(), "p", nil); err != nil {
		t.Fatal(err)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Bucket: "b", Prefix: "no-slash"}} {
		if _, err := Open(context.Background(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// TestNow checks that Now returns the Date header of a response, even of one that rejects the request.
func TestNow(t *testing.T) {
	date := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", date.Format(http.TimeFormat))
		w.WriteHeader(http.StatusForbidden)
	}))
	s, err := Open(context.Background(), Options{Bucket: "b", Endpoint: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if got, err := s.Now(context.Background()); err != nil || !got.Equal(date) {
		t.Errorf("Now() = %s, %v; want %s", got, err, date)
	}
	srv.Close()
	if got, err := s.Now(context.Background()); err == nil {
		t.Errorf("Now() = %s for a service that does not respond", got)
	}
}

// TestSentOnce checks that reads are sent once, because package retried retries them. A page of a
// listing is sent up to four times, because retried does not retry List.
func TestSentOnce(t *testing.T) {
	for code, permanent := range map[int]bool{http.StatusServiceUnavailable: false, http.StatusTooManyRequests: false,
		http.StatusInternalServerError: false, http.StatusForbidden: true} {
		sent := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { sent++; w.WriteHeader(code) }))
		defer srv.Close()
		s, err := Open(t.Context(), Options{Bucket: "b", Endpoint: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // ends the test soon if the client retries without limit
		defer cancel()
		_, getErr := s.Get(ctx, "l1/a", 0, 1)
		_, statErr := s.Stat(ctx, "l1/a")
		if sent != 2 || getErr == nil || statErr == nil || Permanent(getErr) != permanent || Permanent(statErr) != permanent {
			t.Errorf("%d: sent %d times; %v; %v", code, sent, getErr, statErr)
		}
		want := map[bool]int{true: 1, false: 4}[permanent]
		sent = 0
		if err := s.List(ctx, "l1/", func(objects.Object) bool { return true }); err == nil || sent != want {
			t.Errorf("%d: a page was requested %d times, %v", code, sent, err)
		}
		sent = 0
		if _, err := retried.New(s, retried.Options{Permanent: Permanent}).Get(ctx, "l1/a", 0, 1); err == nil || sent != want {
			t.Errorf("%d: retried: sent %d times, %v", code, sent, err)
		}
	}
}
