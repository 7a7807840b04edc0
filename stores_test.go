package main

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	objectsmemory "github.com/palliumhq/pallium/backend/objects/memory"
	objectsretried "github.com/palliumhq/pallium/backend/objects/retried"
	"github.com/palliumhq/pallium/backend/rows"
	rowsretried "github.com/palliumhq/pallium/backend/rows/retried"
)

// TestRetriedStores checks that the reads of shared stores are retried, and those of embedded ones
// are not.
func TestRetriedStores(t *testing.T) {
	for name, tt := range map[string]struct {
		store Store
		want  bool
	}{
		"shared":   {Store{Bigtable: Bigtable{Project: "p", Instance: "i"}, GCS: GCS{Bucket: "b"}}, true},
		"embedded": {Store{}, false},
	} {
		reg := prometheus.NewRegistry()
		_, o := tt.store.retriedObjects(objectsmemory.New(), reg).(*objectsretried.Store)
		_, r := tt.store.retriedRows(struct{ rows.Store }{}, reg).(*rowsretried.Store)
		if o != tt.want || r != tt.want {
			t.Errorf("%s: reads are retried of objects: %v, of rows: %v; want %v", name, o, r, tt.want)
		}
	}
}
