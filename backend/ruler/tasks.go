package ruler

import (
	"context"

	"github.com/palliumhq/pallium/authn/tenant"
)

// syncWorkers is the number of tenants whose rules are read and parsed at once, so that a tenant with large rules
// does not delay the others.
const syncWorkers = 8

// task is what has to be done for the rules of a tenant. Without woken and listed, the groups that are known are
// brought in line with the held shares.
type task struct {
	woken   bool   // the version has to be read
	listed  bool   // the version was read with those of all tenants
	version string // if listed
	queued  bool
	urgent  bool // in tasks.urgent
	running bool
}

// tasks are those of all tenants. A tenant has one task at a time. Ruler.mu protects them.
type tasks struct {
	byTenant map[tenant.ID]*task
	urgent   []tenant.ID // of shares that were gained and of woken tenants
	regular  []tenant.ID
}

// enqueue adds something to the task of a tenant. r.mu is locked.
func (r *Ruler) enqueue(id tenant.ID, urgent bool, add func(*task)) {
	t := r.tasks.byTenant[id]
	if t == nil {
		t = &task{}
		r.tasks.byTenant[id] = t
	}
	add(t)
	switch {
	case urgent && !t.urgent: // also if it is a regular one, which is skipped when its turn comes
		t.urgent = true
		r.tasks.urgent = append(r.tasks.urgent, id)
	case !urgent && !t.queued:
		r.tasks.regular = append(r.tasks.regular, id)
	}
	t.queued = true
	select {
	case r.work <- struct{}{}:
	default: // every worker will look
	}
}

// nextTask returns what has to be done for a tenant, the urgent ones first.
func (r *Ruler) nextTask() (id tenant.ID, do task, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, queue := range []*[]tenant.ID{&r.tasks.urgent, &r.tasks.regular} {
		for len(*queue) > 0 {
			id, *queue = (*queue)[0], (*queue)[1:]
			t := r.tasks.byTenant[id]
			if t == nil || !t.queued || t.running {
				continue
			}
			do = *t
			*t = task{running: true}
			return id, do, true
		}
	}
	return "", task{}, false
}

// taskDone ends a task. What was added while it was running is done next.
func (r *Ruler) taskDone(id tenant.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks.byTenant[id]
	t.running = false
	if !t.queued {
		delete(r.tasks.byTenant, id)
		return
	}
	t.urgent = false // if it was urgent, it was skipped
	r.enqueue(id, true, func(*task) {})
}

// syncWorker does tasks until the context ends.
func (r *Ruler) syncWorker(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.work:
		}
		for ctx.Err() == nil {
			id, do, ok := r.nextTask()
			if !ok {
				break
			}
			r.sync(ctx, id, do)
			r.taskDone(id)
		}
	}
}
