package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/backend/redisconn"
)

func TestParseTargets(t *testing.T) {
	for _, tt := range []struct{ list, want, says string }{
		{"all", "compactor distributor ingester querier", ""},
		{"distributor", "distributor", ""},
		{"querier, distributor", "distributor querier", ""},
		{"querier,all", "compactor distributor ingester querier", ""},
		{"", "", `there is no role ""; choose of compactor, distributor, ingester, querier, or all`},
		{"Querier", "", `there is no role "Querier"`},
		{"querier,", "", `there is no role ""`},
	} {
		got, err := ParseTargets(tt.list)
		if names := strings.Join(got.names(), " "); names != tt.want || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %s, %v", tt.list, names, err)
		}
	}
}

// TestRoleNeeds: each role of a cluster starts with what it needs and not without.
func TestRoleNeeds(t *testing.T) {
	whole := func() Config {
		c := DefaultConfig()
		c.Store.Bigtable, c.Store.GCS = Bigtable{Project: "p", Instance: "i"}, GCS{Bucket: "b"}
		c.Cluster.Redis = redisconn.Config{Addresses: []string{"redis:6379"}}
		return c
	}
	for _, r := range roles() {
		for name, tt := range map[string]struct {
			needed bool
			take   func(*Config)
			says   string
		}{
			"everything":    {false, func(*Config) {}, ""},
			"without table": {r.needs.stores, func(c *Config) { c.Store.Bigtable = Bigtable{} }, "needs both store.bigtable and store.gcs"},
			"without GCS":   {r.needs.stores, func(c *Config) { c.Store.GCS = GCS{} }, "needs both store.bigtable and store.gcs"},
			"without ring":  {r.needs.ring, func(c *Config) { c.Cluster.Redis = redisconn.Config{} }, "needs cluster.redis.addresses"},
			"without disk":  {r.needs.disk, func(c *Config) { c.DataDir = "" }, "needs data_dir"},
		} {
			c := whole()
			tt.take(&c)
			err := Targets{r.name: true}.check(&c)
			if (err != nil) != tt.needed || err != nil && (!strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "the "+string(r.name))) {
				t.Errorf("%s %s: %v", r.name, name, err)
			}
		}
	}
}

// TestRoleTable: the table is complete, and what is derived from it names every role.
func TestRoleTable(t *testing.T) {
	var names []string
	for _, r := range roles() {
		if r.name == "" || r.doc == "" || r.build == nil {
			t.Errorf("row %+v is not complete", r.name)
		}
		if slices.Contains(names, string(r.name)) {
			t.Errorf("role %s has two rows", r.name)
		}
		names = append(names, string(r.name))
		if !strings.Contains(table().Notes, "  "+string(r.name)) || !strings.Contains(table().Notes, r.doc) {
			t.Errorf("the usage does not tell of %s", r.name)
		}
	}
	if i, j := slices.Index(names, "ingester"), slices.Index(names, "distributor"); i > j {
		t.Error("a distributor of one process writes to the ingester, which is built after it")
	}
}
