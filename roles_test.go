package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/backend/redisconn"
)

func TestParseTargets(t *testing.T) {
	for _, tt := range []struct{ list, want, says string }{
		{"all", "alertmanager compactor distributor ingester querier query-frontend ruler", ""},
		{"distributor", "distributor", ""},
		{"querier, distributor", "distributor querier", ""},
		{"querier,all", "alertmanager compactor distributor ingester querier query-frontend ruler", ""},
		{"", "", `unknown role ""; choose from alertmanager, compactor, distributor, ingester, querier, query-frontend, ruler, or all`},
		{"Querier", "", `unknown role "Querier"`},
		{"querier,", "", `unknown role ""`},
	} {
		got, err := ParseTargets(tt.list)
		if names := strings.Join(got.names(), " "); names != tt.want || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %s, %v; want %q, error %q", tt.list, names, err, tt.want, tt.says)
		}
	}
}

// TestRoleNeeds checks that a role is rejected if and only if one of its needs is not configured.
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

// TestRoleTable checks that the table of roles is complete, and that the usage text has every
// role.
func TestRoleTable(t *testing.T) {
	var names []string
	for _, r := range roles() {
		if r.name == "" || r.doc == "" || r.build == nil {
			t.Errorf("role %q has an incomplete row", r.name)
		}
		if slices.Contains(names, string(r.name)) {
			t.Errorf("role %s has two rows", r.name)
		}
		names = append(names, string(r.name))
		if !strings.Contains(table().Notes, "  "+string(r.name)) || !strings.Contains(table().Notes, r.doc) {
			t.Errorf("the usage text lacks role %s", r.name)
		}
	}
	if i, j := slices.Index(names, "ingester"), slices.Index(names, "distributor"); i > j {
		t.Error("the distributor is built before the ingester, which it needs in a single process")
	}
}
