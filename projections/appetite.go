package projections

import "sync/atomic"

// appetite is how many records the next transaction may take. A transaction holds every page that it changes in memory
// until it is committed: 50,000 records that each belong to another part of a large table were 200 MB, for each
// projection that was built.
type appetite struct {
	most atomic.Int64
	full int64
}

const (
	// pagesLimit is how many bytes of pages a transaction should change at most; several that run together, in all.
	pagesLimit = 32 << 20
	leastMeal  = 500
)

// newAppetite begins small: what a record costs isn't known yet.
func newAppetite(full int) *appetite {
	a := &appetite{full: int64(full)}
	a.most.Store(min(a.full, 4*leastMeal))
	return a
}

func (a *appetite) next() int { return int(a.most.Load()) }

// ate notes that records were applied, and how many bytes of pages that changed.
func (a *appetite) ate(records int, pages int64) {
	switch most := a.most.Load(); {
	case pages > pagesLimit:
		a.most.Store(max(min(most, int64(records)*pagesLimit/pages), min(leastMeal, a.full)))
	case pages < pagesLimit/2 && int64(records) >= most/2:
		a.most.Store(min(2*most, a.full))
	}
}
