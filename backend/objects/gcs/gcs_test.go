package gcs

import (
	"context"
	"fmt"
	"testing"

	"cloud.google.com/go/storage"
	"google.golang.org/api/option"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/objecttest"
	"github.com/palliumhq/pallium/test/emulator"
)

// TestContract runs the contract of objects.Store against fake-gcs-server, with
// and without a prefix in the bucket.
func TestContract(t *testing.T) {
	url := emulator.GCS(t)
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
