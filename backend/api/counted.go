package api

import (
	"net/http"

	"github.com/palliumhq/pallium/backend/querier"
)

// counted returns the handler of an endpoint of package cardinality.
func (a *api) counted(answer func(*http.Request) (any, error)) http.HandlerFunc {
	return a.admit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, fault := querier.NoteFaults(r.Context())
		r = r.WithContext(ctx)
		v, err := answer(r)
		if err == nil {
			writeJSON(w, http.StatusOK, v)
			return
		}
		if cause := fault(); cause != nil { // the querier has logged the cause; err has only a general text
			err = logged{cause}
		}
		a.reject(w, r, err)
	}))
}
