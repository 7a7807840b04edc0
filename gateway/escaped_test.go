package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestNamesInPaths checks which path reaches the backend for names of namespaces and groups that need
// encoding, and that other paths are rejected as before.
func TestNamesInPaths(t *testing.T) {
	const root = "/prometheus/config/v1/rules"
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			e := newEdge(t, mode, nil)
			e.backend.answer = func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.Method+" "+r.URL.EscapedPath()+"?"+r.URL.RawQuery+" "+r.Header.Get("X-Mimir-Ruler-Override-Namespace-Protection"))
			}
			for _, tt := range []struct{ line, want string }{ // want: the request to the backend, or the status
				{"GET /prometheus/config/v1/rules", "GET " + root},
				{"GET /api/prom/config/v1/rules", "GET " + root},
				{"GET /api/v1/rules", "GET " + root},
				{"GET /api/prom/rules", "GET " + root},
				{"GET /api/v1/rules/n", "GET " + root + "/n"},
				{"POST /api/prom/rules/n", "POST " + root + "/n"},
				{"DELETE /api/prom/config/v1/rules/n/g", "DELETE " + root + "/n/g"},
				{"GET " + root + "/a%2Fb/c%2fd", "GET " + root + "/a%2Fb/c%2Fd"},
				{"GET " + root + "/a%20b", "GET " + root + "/a%20b"},
				{"GET " + root + "/100%25", "GET " + root + "/100%25"},
				{"GET " + root + "/%252F", "GET " + root + "/%252F"},
				{"GET " + root + "/%C3%A4%2f%c3%b6", "GET " + root + "/%C3%A4%2F%C3%B6"},
				{"GET " + root + "/a%3Bb", "GET " + root + "/a%3Bb"},
				{"GET " + root + "/a;b", "GET " + root + "/a%3Bb"},
				{"GET " + root + "/a%3Fb?x=y", "GET " + root + "/a%3Fb?x=y"},
				{"GET " + root + "/a?b", "GET " + root + "/a?b="},
				{"GET " + root + "/a%23b", "GET " + root + "/a%23b"},
				{"GET " + root + "/+", "GET " + root + "/+"},
				{"GET " + root + "/%2B", "GET " + root + "/+"},
				{"GET " + root + "/%61/%62", "GET " + root + "/a/b"},
				{"GET " + root + "/...", "GET " + root + "/..."},
				{"GET " + root + "/api/v1", "GET " + root + "/api/v1"},
				{"GET " + root + "/" + strings.Repeat("a", 256), "GET " + root + "/" + strings.Repeat("a", 256)},

				{"GET " + root + "/", "400"},
				{"GET " + root + "//g", "400"},
				{"GET " + root + "/n/", "400"},
				{"GET " + root + "/..", "400"},
				{"GET " + root + "/.", "400"},
				{"GET " + root + "/%2e%2E", "400"},
				{"GET " + root + "/../v1", "400"},
				{"GET " + root + "/n/..", "400"},
				{"GET " + root + "/%2e%2e%2f..", "400"},
				{"GET " + root + "/%2e%2e%2f%2e%2e%2f%2e%2e%2fapi%2fv1%2fquery", "400"},
				{"GET " + root + "/a%2F..%2Fb", "400"},
				{"GET " + root + "/a%00b", "400"},
				{"GET " + root + "/a%0Ab", "400"},
				{"GET " + root + "/%ff", "400"},
				{"GET " + root + "/a%zz", "400"},
				{"GET " + root + "/a%2", "400"},
				{"GET " + root + "/" + strings.Repeat("a", 257), "400"},
				{"GET http://edge" + root + "/n", "400"},
				{"GET /prometheus/config/v1%2Frules/n", "400"},
				{"GET /prometheus/config/v1/%72ules/n", "400"},
				{"GET /prometheus/../prometheus/config/v1/rules/n", "400"},
				{"GET " + root + "/a/b/c", "404"},
				{"GET " + root + "/a/b%2Fc/d", "400"},
				{"PUT " + root + "/n", "405"},
				{"POST " + root + "/n/g", "405"},
				{"POST " + root, "405"},
				{"GET /prometheus/api/v1/rules%2Fn", "400"},
				{"GET /prometheus/api/v1/label/a%2Fb/values", "400"},
			} {
				e.backend.take()
				a := e.do(tt.line, bearer("$A", "X-Mimir-Ruler-Override-Namespace-Protection: p"), "")
				reached := len(e.backend.take())
				if code, rejected := map[string]int{"400": 400, "404": 404, "405": 405}[tt.want]; rejected {
					if a.status != code || reached != 0 {
						t.Errorf("%s: %d, %d requests reached the backend, want %d and no request; %s", tt.line, a.status, reached, code, a.body)
					}
					continue
				}
				want := tt.want
				if !strings.Contains(want, "?") {
					want += "?"
				}
				if a.status != 200 || a.body != want+" p" {
					t.Errorf("%s: %d %s, want %s", tt.line, a.status, a.body, want)
				}
			}
			a := e.do("PUT "+root+"/n", bearer("$A"), "")
			if got := a.header.Get("Allow"); got != "GET, POST, DELETE" {
				t.Errorf("Allow is %q", got)
			}
			if a := e.do("POST "+root, bearer("$A"), ""); a.header.Get("Allow") != "GET" {
				t.Errorf("Allow is %q", a.header.Get("Allow"))
			}
		})
	}
}
