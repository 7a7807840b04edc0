package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestTargets checks that every combination of roles can be built and closed, and has the
// parts of its roles and of no others.
func TestTargets(t *testing.T) {
	bigtable, gcs, redis := programs.Bigtable(t), programs.GCS(t), programs.Redis(t)
	resp, err := http.Post(gcs+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name":"targets"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	noLeaks(t)
	defer http.DefaultClient.CloseIdleConnections()
	config := func(instance string) Config {
		cfg := testConfig(t)
		cfg.Store.Bigtable = Bigtable{Project: "p", Instance: "i", Emulator: bigtable}
		cfg.Store.GCS = GCS{Bucket: "targets", Endpoint: gcs}
		cfg.Cluster.Instance, cfg.Cluster.Advertise, cfg.Cluster.Replication = instance, "127.0.0.1:1", 1
		cfg.Cluster.Redis.Addresses = []string{redis.Addr}
		cfg.InternalListen, cfg.RPCListen = "127.0.0.1:0", "127.0.0.1:0"
		return cfg
	}
	o := testOptions(Backend, map[string]string{"PALLIUM_CLUSTER_SECRET": long + "cluster"}, nil)
	if err := Migrate(t.Context(), config("migration"), o, false, io.Discard); err != nil {
		t.Fatal(err)
	}
	table := roles()
	for set := 1; set < 1<<len(table); set++ {
		o.Targets = Targets{}
		for i := range table {
			if set&(1<<i) != 0 {
				o.Targets[table[i].name] = true
			}
		}
		name := strings.Join(o.Targets.names(), "-")
		t.Run(name, func(t *testing.T) { checkTargets(t, config(name), o) })
	}
}

func checkTargets(t *testing.T, cfg Config, o Options) {
	t.Helper()
	p, err := open(t.Context(), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	families, err := p.registry.Gather()
	if err != nil {
		t.Error(err)
	}
	zones := false
	for _, f := range families {
		zones = zones || f.GetName() == "pallium_distributor_zones"
	}
	b, has := p.backend, o.Targets
	if b.push == nil || b.commands == nil {
		t.Error("no Push for the process's own metrics, or no operators' commands")
	}
	for what, is := range map[string]struct{ got, want bool }{
		"ingester":        {b.ingester != nil, has[TargetIngester]},
		"way to leave":    {b.cluster.leaver != nil, has[TargetIngester]},
		"compactor":       {b.compactor != nil, has[TargetCompactor]},
		"metric of zones": {zones, has[TargetDistributor]},
		"writes":          {b.api.Push != nil, has[TargetDistributor]},
		"reads":           {b.api.Queryable != nil && b.api.Delete != nil && b.api.Metadata != nil, has[TargetQuerier] || has[TargetFrontend]},
		"API":             {b.handler != nil, has[TargetDistributor] || has[TargetQuerier] || has[TargetFrontend]},
		"key of secrets":  {b.alertCompiler != nil, has[TargetQuerier] || has[TargetFrontend] || has[TargetAlertmanager]},
		"slots to lend":   {b.queries != nil && b.queries.worker != nil, has[TargetQuerier]},
		"query frontend":  {b.queries != nil && b.queries.server != nil && b.queries.dispatcher != nil, has[TargetFrontend]},
	} {
		if is.got != is.want {
			t.Errorf("%s: %v, want %v", what, is.got, is.want)
		}
	}
	for path, served := range map[string]bool{
		"/api/v1/push": has[TargetDistributor], "/prometheus/api/v1/query": has[TargetQuerier] || has[TargetFrontend],
		"/api/v1/alerts": has[TargetQuerier] || has[TargetFrontend],
	} {
		if served {
			continue
		}
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, path, http.NoBody)
		tenant.Access{Tenant: "a", Policy: tenant.Unrestricted()}.SetHeaders(r.Header)
		b.internal().ServeHTTP(w, r)
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "this process does not have the role") {
			t.Errorf("%s of another role: %d %s", path, w.Code, w.Body)
		}
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}
