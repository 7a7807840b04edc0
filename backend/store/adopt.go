package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
)

// maxAdoptAge is the greatest age of an L0 pack that is adopted, in milliseconds. An
// older pack might restore deleted series whose deletion is already forgotten.
const maxAdoptAge = 14 * 24 * 60 * 60 * 1000

// Adopt enters into the index an L0 pack whose upload was not completed, usually
// because its ingester was lost, or whose rows were lost. Everything that the index
// needs is in the pack. Adopt returns false if the object does not exist.
func (s *Store) Adopt(ctx context.Context, object string) (adopted bool, err error) {
	obj, info, err := s.L0Info(ctx, object)
	if errors.Is(err, objects.ErrNotFound) {
		return false, nil // the ingester still has the pack, or lost it before it was stored
	}
	if err != nil {
		return false, err
	}
	if age := s.nowMillis() - int64(info.ID.Time()); age > maxAdoptAge {
		return false, fmt.Errorf("the pack is %d days old and not in the index, and is now too old to be entered safely: "+
			"delete the object, or start the ingester that has the pack", age/86_400_000)
	}
	if err := s.enter(ctx, uploadOf(obj, info), obj); err != nil {
		return false, err
	}
	s.opts.Logger.Warn("entered an L0 pack into the index: its upload was not completed, or its rows were lost",
		"object", object, "ingester", info.Source)
	return true, nil
}

// uploadOf reconstructs an upload from its object alone.
func uploadOf(obj objects.Object, info pack.Info) Upload {
	return Upload{Object: obj.Name, CRC: obj.CRC, Info: info, Ingester: info.Source, Sealed: int64(info.ID.Time()), Windows: WindowsOf(info)}
}

// Receipts returns the receipts of an L0 pack, one for each of its days, from the
// pack's own table of contents.
func Receipts(obj objects.Object, info pack.Info) []index.DayReceipt {
	return receipts(uploadOf(obj, info), obj)
}

// WindowsOf returns the windows for which a pack may have samples: all windows
// between the first and the last sample of each section.
func WindowsOf(info pack.Info) []Window {
	seen := map[Window]bool{}
	var out []Window
	for i := range info.Sections {
		sec := &info.Sections[i]
		for w := WindowOf(sec.MinTime); ; w.Number++ {
			if !seen[w] {
				seen[w] = true
				out = append(out, w)
			}
			if w == WindowOf(sec.MaxTime) {
				break
			}
		}
	}
	return out
}

// L0Info reads the table of contents of an L0 pack.
func (s *Store) L0Info(ctx context.Context, object string) (objects.Object, pack.Info, error) {
	obj, err := s.opts.Objects.Stat(ctx, object)
	if err != nil {
		return obj, pack.Info{}, err
	}
	r, err := s.OpenPack(ctx, ulid.ULID{}, object, obj.Size)
	if err != nil {
		return obj, pack.Info{}, err
	}
	info := r.Info()
	return obj, info, r.Release()
}
