package admin

import (
	"bytes"
	"net/http"
)

// button carries out what a button of the overview page posts, as a request to the admin API
// with the same path, so that it is checked and audited like one. The browser has
// authenticated with a password; the API accepts only the token. Afterwards the browser shows
// the page again, also if there was nothing left to do (404), or the error.
func (s *Surface) button(w http.ResponseWriter, r *http.Request) {
	req := r.Clone(r.Context())
	req.URL.Path, req.URL.RawPath, req.RequestURI = Root+r.URL.Path, "", ""
	req.Body, req.ContentLength = http.NoBody, 0
	req.Header = http.Header{"Authorization": {"Bearer " + s.Token}}
	answer := &heldResponse{header: http.Header{}, code: http.StatusOK}
	s.API.ServeHTTP(answer, req)
	if answer.code/100 == 2 || answer.code == http.StatusNotFound {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	w.Header().Set("Content-Type", answer.header.Get("Content-Type"))
	w.WriteHeader(answer.code)
	_, _ = w.Write(answer.body.Bytes())
}

// heldResponse is a response in memory.
type heldResponse struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (h *heldResponse) Header() http.Header { return h.header }

// WriteHeader implements http.ResponseWriter.
func (h *heldResponse) WriteHeader(code int) { h.code = code }

// Write implements http.ResponseWriter.
func (h *heldResponse) Write(p []byte) (int, error) { return h.body.Write(p) }
