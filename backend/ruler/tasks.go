package ruler

import (
	"context"

	"github.com/palliumhq/pallium/authn/tenant"
)

// syncWorkers is the number of tenants whose rules are read and parsed concurrently, so that a tenant with large rules does
// not delay the others.
const syncWorkers = 8

// task is the pending work for the rules of a tenant. If neither woken nor listed is set, only the known groups are updated
// according to the held shares.
type task struct {
	woken   bool   // whether the version must be read
	listed  bool   // whether the version was read together with those of all tenants
	version string // the version, if listed is set
	queued  bool
	urgent  bool // whether the tenant is in tasks.urgent
	running bool
}

// tasks contains the tasks of all tenants. A tenant has one task at a time. Ruler.mu protects it.
type tasks struct {
	byTenant map[tenant.ID]*task
	urgent   []tenant.ID // tenants with groups in gained shares, and woken tenants
	regular  []tenant.ID
}

// enqueue adds work to the task of a tenant. r.mu is locked.
func (r *Ruler) enqueue(id tenant.ID, urgent bool, add func(*task)) {
	t := r.tasks.byTenant[id]
	if t == nil {
		t = &task{}
		r.tasks.byTenant[id] = t
	}
	add(t)
	switch {
	case urgent && !t.urgent: // also if the tenant is in the regular queue, where it is then skipped
		t.urgent = true
		r.tasks.urgent = append(r.tasks.urgent, id)
	case !urgent && !t.queued:
		r.tasks.regular = append(r.tasks.regular, id)
	}
	t.queued = true
	select {
	case r.work <- struct{}{}:
	default: // a signal for every worker is pending, so one of them will find the task
	}
}

// nextTask returns the next tenant with a task, and its task. Urgent tasks are first.
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

// taskDone ends a task. Work that was added while the task was running becomes the next task.
func (r *Ruler) taskDone(id tenant.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks.byTenant[id]
	t.running = false
	if !t.queued {
		delete(r.tasks.byTenant, id)
		return
	}
	t.urgent = false // if it became urgent meanwhile, nextTask skips that entry
	r.enqueue(id, true, func(*task) {})
}

// syncWorker executes tasks until the context ends.
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
