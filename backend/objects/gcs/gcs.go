// Package gcs implements objects.Store in a bucket of Google Cloud Storage, with the official
// client. Outside of tests, only package main imports it.
package gcs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/progress"
)

// Options identify a bucket and how to connect to it.
type Options struct {
	Bucket string
	Prefix string // before every object's name; empty or ending in a slash
	// CredentialsFile is the key file of a service account; empty: the machine's default credentials.
	CredentialsFile string
	// Endpoint is the URL of an emulator to use instead of the service.
	Endpoint string
}

// Limits of the client's own retries, within the caller's context. Get and Stat are sent once:
// package objects/retried retries them. Writes are retried by the client, and so is each page of
// a listing, since only the client can continue one.
const (
	retryFor  = 2 * time.Minute
	pageTries = 4
	chunkSize = 16 << 20 // bytes per upload request; a failed request is retried
)

// Store is an objects.Store in a bucket, or in the part of it under a prefix.
type Store struct {
	client *storage.Client
	bucket *storage.BucketHandle
	prefix string
	url    string // of the service, or of an emulator
	closed atomic.Bool
}

var _ objects.Store = (*Store)(nil)

// service is the endpoint for all buckets.
const service = "https://storage.googleapis.com"

// Open connects to an existing bucket.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Bucket == "" {
		return nil, errors.New("gcs: bucket must be set")
	}
	if o.Prefix != "" && !strings.HasSuffix(o.Prefix, "/") {
		return nil, fmt.Errorf("gcs: prefix %q must end in a slash", o.Prefix)
	}
	var opts []option.ClientOption
	switch {
	case o.Endpoint != "":
		opts = append(opts, option.WithEndpoint(strings.TrimSuffix(strings.TrimRight(o.Endpoint, "/"), "/storage/v1")+"/storage/v1/"),
			option.WithoutAuthentication(), storage.WithJSONReads())
	case o.CredentialsFile != "":
		opts = append(opts, option.WithAuthCredentialsFile(option.ServiceAccount, o.CredentialsFile))
	}
	c, err := storage.NewClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to cloud storage: %w", err)
	}
	// The client may retry the writes of Put and the deletes of Delete: they have a
	// precondition, so that they are idempotent.
	c.SetRetry(storage.WithMaxRetryDuration(retryFor))
	return &Store{client: c, bucket: c.Bucket(o.Bucket), prefix: o.Prefix, url: cmp.Or(o.Endpoint, service)}, nil
}

// Now returns the time of the service's clock: the Date header of a response, whatever its
// status.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, s.url, http.NoBody)
	if err != nil {
		return time.Time{}, fmt.Errorf("cloud storage: request the time: %w", err)
	}
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return time.Time{}, fmt.Errorf("cloud storage: request the time: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // the response to HEAD has no body
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("cloud storage: parse the Date header of a response: %w", err)
	}
	return at, nil
}

// Timeouts of calls without a deadline.
const (
	callTimeout = 2 * time.Minute
	putTimeout  = 15 * time.Minute
)

// withTimeout adds a timeout to a context that has no deadline.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

func (s *Store) object(ctx context.Context, name string) (*storage.ObjectHandle, error) {
	if s.closed.Load() {
		return nil, objects.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := objects.CheckName(name); err != nil {
		return nil, err
	}
	return s.bucket.Object(s.prefix + name), nil
}

// failed wraps the error of a call for an object, and converts it to an error of package
// objects where there is one.
func failed(ctx context.Context, what, name string, err error) error {
	var api *googleapi.Error
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, storage.ErrObjectNotExist):
		err = objects.ErrNotFound
	case errors.As(err, &api) && api.Code == http.StatusRequestedRangeNotSatisfiable:
		err = fmt.Errorf("%w: range beyond the end of the object", objects.ErrInvalid)
	}
	return fmt.Errorf("cloud storage: %s %s: %w", what, name, err)
}

// Permanent reports whether a retry of a read would fail with the same error: the service
// responded with an HTTP status that is not due to a temporary state of the service.
func Permanent(err error) bool {
	var api *googleapi.Error
	return errors.As(err, &api) && api.Code >= 400 && api.Code < 500 &&
		api.Code != http.StatusRequestTimeout && api.Code != http.StatusTooManyRequests
}

// Put implements objects.Store.
func (s *Store) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	h, err := s.object(ctx, name)
	if err != nil {
		return objects.Object{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, err)
	}
	ctx, end := withTimeout(ctx, putTimeout)
	defer end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // aborts an incomplete upload
	w := h.If(storage.Conditions{DoesNotExist: true}).NewWriter(ctx)
	w.ChunkSize = int(min(chunkSize, max(st.Size(), 256<<10)))
	w.CRC32C, w.SendCRC32C = crc, true
	w.ContentType = "application/octet-stream"
	w.ProgressFunc = func(int64) { progress.Step(ctx) }
	if _, err = io.Copy(w, f); err == nil {
		err = w.Close()
	}
	var api *googleapi.Error
	if errors.As(err, &api) && api.Code == http.StatusPreconditionFailed {
		return s.existing(ctx, name, h, st.Size(), crc)
	}
	if errors.As(err, &api) && api.Code == http.StatusBadRequest {
		return objects.Object{}, fmt.Errorf("put %s: %w: %w", name, objects.ErrInvalid, err)
	}
	if err != nil {
		return objects.Object{}, failed(ctx, "put", name, err)
	}
	o := s.describe(w.Attrs())
	if o.Size != st.Size() || o.CRC != crc {
		err := fmt.Errorf("%w: stored %d bytes with checksum %08x, want %d bytes with checksum %08x", objects.ErrInvalid, o.Size, o.CRC,
			st.Size(), crc)
		return objects.Object{}, errors.Join(fmt.Errorf("put %s: %w", name, err), h.Delete(ctx))
	}
	return o, nil
}

// existing returns the existing object if it has the given size and CRC, and ErrExists
// otherwise.
func (s *Store) existing(ctx context.Context, name string, h *storage.ObjectHandle, size int64, crc uint32) (objects.Object, error) {
	o, err := s.attrs(ctx, name, h)
	if err != nil {
		return o, err
	}
	if o.Size != size || o.CRC != crc {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, objects.ErrExists)
	}
	return o, nil
}

func (s *Store) describe(a *storage.ObjectAttrs) objects.Object {
	return objects.Object{Name: strings.TrimPrefix(a.Name, s.prefix), Size: a.Size, CRC: a.CRC32C, Created: a.Created}
}

// Get implements objects.Store.
func (s *Store) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	ctx, end := withTimeout(ctx, callTimeout)
	defer end()
	h, err := s.object(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := objects.CheckRange(off, n); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	r, err := h.Retryer(storage.WithPolicy(storage.RetryNever)).NewRangeReader(ctx, off, int64(n))
	if err != nil {
		return nil, failed(ctx, "get", name, err)
	}
	defer func() { _ = r.Close() }() // after a complete or failed read
	if off+int64(n) > r.Attrs.Size {
		return nil, fmt.Errorf("get %s: %w: range of bytes %d to %d in an object of %d bytes", name, objects.ErrInvalid, off, off+int64(n),
			r.Attrs.Size)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, failed(ctx, "get", name, err)
	}
	return b, nil
}

// Stat implements objects.Store.
func (s *Store) Stat(ctx context.Context, name string) (objects.Object, error) {
	ctx, end := withTimeout(ctx, callTimeout)
	defer end()
	h, err := s.object(ctx, name)
	if err != nil {
		return objects.Object{}, err
	}
	return s.attrs(ctx, name, h.Retryer(storage.WithPolicy(storage.RetryNever)))
}

func (s *Store) attrs(ctx context.Context, name string, h *storage.ObjectHandle) (objects.Object, error) {
	a, err := h.Attrs(ctx)
	if err != nil {
		return objects.Object{}, failed(ctx, "describe", name, err)
	}
	return s.describe(a), nil
}

// List implements objects.Store.
func (s *Store) List(ctx context.Context, prefix string, visit func(objects.Object) bool) error {
	if s.closed.Load() {
		return objects.ErrClosed
	}
	q := &storage.Query{Prefix: s.prefix + prefix, Projection: storage.ProjectionNoACL}
	if err := q.SetAttrSelection([]string{"Name", "Size", "Created"}); err != nil {
		return fmt.Errorf("cloud storage: list: %w", err)
	}
	// Another handle, since Retryer changes the options of the one that it is called on.
	it := s.client.Bucket(s.bucket.BucketName()).Retryer(storage.WithMaxAttempts(pageTries)).Objects(ctx, q)
	for {
		a, err := it.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return failed(ctx, "list", prefix, err)
		}
		if !visit(s.describe(a)) {
			return nil
		}
	}
}

// Delete implements objects.Store. It deletes the generation of the object that exists when
// it is called, so that a retry does not delete an object stored later.
func (s *Store) Delete(ctx context.Context, name string) error {
	ctx, end := withTimeout(ctx, callTimeout)
	defer end()
	h, err := s.object(ctx, name)
	if err != nil {
		return err
	}
	a, err := h.Attrs(ctx)
	if err == nil {
		err = h.If(storage.Conditions{GenerationMatch: a.Generation}).Delete(ctx)
	}
	var api *googleapi.Error
	if errors.Is(err, storage.ErrObjectNotExist) || errors.As(err, &api) &&
		(api.Code == http.StatusPreconditionFailed || api.Code == http.StatusNotFound) {
		return nil
	}
	if err != nil {
		return failed(ctx, "delete", name, err)
	}
	return nil
}

// Close implements objects.Store.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.client.Close()
}
