package memory

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

const meminfo = "MemTotal:       16000000 kB\nMemFree:  1 kB\n"

const machineBytes = 16000000 << 10

// TestLimit checks that Limit returns the minimum of the machine's memory and of the
// limits of the process's cgroup and its parents, for both versions of cgroups,
// inside and outside of a container.
func TestLimit(t *testing.T) {
	const (
		v2  = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
		v1  = "35 31 0:32 / /sys/fs/cgroup/memory rw shared:15 - cgroup cgroup rw,memory\n36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
		max = "9223372036854771712"
	)
	tests := []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing known", nil, 0},
		{"no groups", map[string]string{"proc/meminfo": meminfo}, machineBytes},
		{"version 2, own group", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": v2,
			"sys/fs/cgroup/a/b/memory.max": "1000000\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 1000000},
		{"version 2, parent group", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": v2,
			"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "2000000\n"}, 2000000},
		{"version 2, minimum of several", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b/c\n", "proc/self/mountinfo": v2,
			"sys/fs/cgroup/a/b/c/memory.max": "5000000\n", "sys/fs/cgroup/a/b/memory.max": "3000000\n", "sys/fs/cgroup/a/memory.max": "4000000\n"}, 3000000},
		{"version 2, in a namespace", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2,
			"sys/fs/cgroup/memory.max": "1000000\n"}, 1000000},
		{"version 2, part of the tree is mounted", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/docker/x/inner\n",
			"proc/self/mountinfo":               "30 20 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/memory.max":          "2000000\n",
			"sys/fs/cgroup/inner/memory.max":    "1000000\n",
			"sys/fs/cgroup/docker/x/memory.max": "1\n",
		}, 1000000},
		{"version 2, outside of the namespace", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/../x\n", "proc/self/mountinfo": v2,
			"sys/fs/cgroup/memory.max": "1000000\n"}, 1000000},
		{"version 1, own group", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "9:cpu:/c\n4:memory:/a/b\n0::/\n", "proc/self/mountinfo": v1,
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "1000000\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": max, "sys/fs/cgroup/memory/memory.limit_in_bytes": max}, 1000000},
		{"version 1, parent group", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:hugetlb,memory:/a/b\n", "proc/self/mountinfo": v1,
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": max, "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2000000"}, 2000000},
		{"version 1, path of the host in a container", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/docker/abc\n", "proc/self/mountinfo": v1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000"}, 1000000},
		{"version 1, no limit", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/\n", "proc/self/mountinfo": v1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": max}, machineBytes},
		{"both versions", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/a\n0::/b\n", "proc/self/mountinfo": v1 + "38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2000000", "sys/fs/cgroup/unified/b/memory.max": "1000000"}, 1000000},
		{"a directory with a space", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n",
			"proc/self/mountinfo":  `30 20 0:26 / /my\040groups rw - cgroup2 cgroup2 rw`,
			"my groups/memory.max": "1000000\n"}, 1000000},
		{"nonsense", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "x\n::\n4:memory\n", "proc/self/mountinfo": "a b c\n - cgroup2\n" + v2,
			"sys/fs/cgroup/memory.max": "many\n"}, machineBytes},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{}
			for name, text := range tt.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := Limit(root); got != tt.want {
				t.Errorf("Limit = %d, want %d", got, tt.want)
			}
		})
	}
}

// TestLimitOfThisProcess checks that a limit is found for this process.
func TestLimitOfThisProcess(t *testing.T) {
	if n := Limit(os.DirFS("/")); n < 64*mb {
		t.Errorf("Limit = %d, want at least 64 MiB", n)
	}
}

// TestDivide checks that the parts fit into the memory, or that the error names the
// part that does not.
func TestDivide(t *testing.T) {
	const gib = 1 << 30
	all := Want{Head: true, Requests: true, Store: true, Fixed: 128 * mb}
	with := func(change func(*Want)) Want {
		w := all
		change(&w)
		return w
	}
	tests := []struct {
		name string
		want Want
		err  string
	}{
		{"2 GiB", with(func(w *Want) { w.Limit = 2 * gib }), ""},
		{"64 GiB", with(func(w *Want) { w.Limit = 64 * gib }), ""},
		{"minimum", with(func(w *Want) { w.Limit, w.Fixed = 256*mb, 72*mb }), ""},
		{"too little", with(func(w *Want) { w.Limit = 200 * mb }), "give it at least"},
		{"a querier", Want{Limit: gib, Requests: true, Store: true}, ""},
		{"a gateway", Want{Limit: gib}, ""},
		{"a large head", with(func(w *Want) { w.Limit, w.HeadBytes = 2*gib, gib }), ""},
		{"a head that leaves nothing", with(func(w *Want) { w.Limit, w.HeadBytes = 2*gib, 2*gib }), "ingester.memory_bytes (2048.0 MiB)"},
		{"large caches", with(func(w *Want) { w.Limit, w.CacheBytes = 2*gib, 2*gib }), "caches of the store (2048.0 MiB)"},
		{"a large account", with(func(w *Want) { w.Limit, w.RequestBytes = 2*gib, 2*gib }), "memory.request_bytes (2048.0 MiB)"},
		{"head size without an ingester", Want{Limit: 512 * mb, Requests: true, Store: true, HeadBytes: 2 * gib}, ""},
		{"cache size without a store", Want{Limit: 512 * mb, Head: true, Requests: true, CacheBytes: 2 * gib}, ""},
		{"request size without requests", Want{Limit: 512 * mb, Store: true, RequestBytes: 2 * gib}, ""},
		{"caches that leave a querier nothing", Want{Limit: 512 * mb, Requests: true, Store: true, CacheBytes: 380 * mb}, "caches of the store (380.0 MiB)"},
		{"unknown limit", with(func(w *Want) { w.HeadBytes = 5 }), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Divide(tt.want)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			w := tt.want
			if w.Head && w.HeadBytes > 0 && p.Head != w.HeadBytes {
				t.Errorf("head has %d bytes", p.Head)
			}
			if w.Limit == 0 {
				return
			}
			if sum := p.Head + p.Caches + p.Requests; sum > p.Go*mostPart/100 || p.Go+w.Fixed > w.Limit {
				t.Errorf("plan %+v exceeds %+v", p, w)
			}
			if w.Head != (p.Head > 0) || w.Store != (p.Caches > 0) || w.Requests != (p.Requests > 0) {
				t.Errorf("plan %+v has parts that do not match %+v", p, w)
			}
		})
	}
}
