package ingester

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/schema"
)

// storedTenant is the form of a tenant's deletions in the file.
type storedTenant struct {
	Last      uint64             `json:"last"`
	Pruned    numberSet          `json:"pruned,omitempty"`
	Deletions []schema.Tombstone `json:"deletions,omitempty"`
}

func storedDeletions(all map[tenant.ID]tenantDeletions) map[tenant.ID]storedTenant {
	out := make(map[tenant.ID]storedTenant, len(all))
	for t, of := range all {
		st := storedTenant{Last: of.last, Pruned: of.pruned}
		for _, k := range of.known {
			st.Deletions = append(st.Deletions, k.Tombstone)
		}
		out[t] = st
	}
	return out
}

// openDeletions reads the file of deletions of series. If the file cannot be
// decoded, damage is the reason and the set is unknown. The file is not replaced
// until the deletions are loaded from the long-term store, so that a restart finds
// it damaged too.
func openDeletions(path string) (d *deletionSet, damage, err error) {
	d = &deletionSet{path: path, byTenant: map[tenant.ID]tenantDeletions{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read deletions of series: %w", err)
	}
	all, damage := decodeDeletions(data)
	if damage != nil {
		d.unknown = true
		return d, damage, nil
	}
	d.byTenant = all
	return d, nil, nil
}

// openDeletions reads the known deletions of series. A damaged file does not
// prevent the start if there is a long-term store: the deletions are loaded from
// there, and nothing is read or sealed until then.
func (ing *Ingester) openDeletions() error {
	path := filepath.Join(ing.opts.Dir, "deletions.json")
	set, damage, err := openDeletions(path)
	if err != nil {
		return err
	}
	if damage != nil && ing.opts.LongTerm == nil {
		return fmt.Errorf("read deletions of series: %s is damaged: %w; restore it from a copy", path, damage)
	}
	if damage != nil {
		ing.opts.Logger.Warn("damaged file of deletions of series: loading them from the long-term store", "file", path, "err", damage)
	}
	ing.deletions = set
	return nil
}

// decodeDeletions decodes the file. A tenant's value is an object, or a list of
// deletions as older versions wrote it.
func decodeDeletions(data []byte) (map[tenant.ID]tenantDeletions, error) {
	var stored map[tenant.ID]json.RawMessage
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, err
	}
	if stored == nil {
		return nil, errors.New("content is null") // never written
	}
	all := map[tenant.ID]tenantDeletions{}
	for t, raw := range stored {
		of, err := decodeTenantDeletions(raw)
		if err != nil {
			return nil, fmt.Errorf("tenant %q: %w", t, err)
		}
		all[t] = of
	}
	return all, nil
}

func decodeTenantDeletions(raw []byte) (tenantDeletions, error) {
	var st storedTenant
	var err error
	if bytes.HasPrefix(raw, []byte("[")) {
		err = json.Unmarshal(raw, &st.Deletions)
	} else {
		err = json.Unmarshal(raw, &st)
	}
	if err != nil {
		return tenantDeletions{}, err
	}
	of := tenantDeletions{last: st.Last, pruned: st.Pruned}
	for i, r := range st.Pruned {
		if r[0] > r[1] || i > 0 && r[0] <= st.Pruned[i-1][1] || r[1] > st.Last {
			return of, fmt.Errorf("range %d to %d of pruned deletions ends before it starts, does not come after the previous range, or exceeds "+
				"the last deletion",
				r[0], r[1])
		}
	}
	for _, ts := range st.Deletions {
		if of, err = of.with(ts); err != nil {
			return of, err
		}
	}
	return of, nil
}

// writeJSON replaces a small file atomically and durably.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return disk.ReplaceFile(path, data)
}
