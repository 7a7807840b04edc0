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

// maxAdoptAge is how old an L0 pack may be that is adopted. An older one might
// bring back series whose deletion is forgotten already.
const maxAdoptAge = 14 * 24 * 60 * 60 * 1000 // milliseconds

// Adopt enters an L0 pack into the index whose upload did not end because its
// ingester was lost: the pack says itself what it holds.
func (s *Store) Adopt(ctx context.Context, object string) (adopted bool, err error) {
	obj, info, err := s.L0Info(ctx, object)
	if errors.Is(err, objects.ErrNotFound) {
		return false, nil // its ingester has it still, or it was lost before it was stored
	}
	if err != nil {
		return false, err
	}
	if age := s.nowMillis() - int64(info.ID.Time()); age > maxAdoptAge {
		return false, fmt.Errorf("the pack is %d days old and was never entered into the index; it is too old to be entered safely "+
			"now: delete it, or restore its ingester", age/86_400_000)
	}
	if err := s.enter(ctx, uploadOf(obj, info), obj); err != nil {
		return false, err
	}
	s.opts.Logger.Warn("entered an L0 pack into the index whose ingester did not finish the upload", "object", object, "ingester", info.Source)
	return true, nil
}

// uploadOf is what is known of an upload from the object alone.
func uploadOf(obj objects.Object, info pack.Info) Upload {
	return Upload{Object: obj.Name, CRC: obj.CRC, Info: info, Ingester: info.Source, Sealed: int64(info.ID.Time()), Windows: WindowsOf(info)}
}

// Receipts makes the receipts of an L0 pack from what it says of itself, one for each
// of its days.
func Receipts(obj objects.Object, info pack.Info) []index.DayReceipt {
	return receipts(uploadOf(obj, info), obj)
}

// WindowsOf is the windows that a pack's sections may have samples of; from the
// outside only the bounds of sections are known.
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

// L0Info opens an L0 pack to read what it says of itself.
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
