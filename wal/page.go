package wal

import (
	"cmp"
	"slices"
)

// A page keeps the first limit logs of those it is offered, by name, in memory
// for twice as many.
type page struct {
	limit int
	found []*logState
	more  bool
}

func newPage(limit int) *page { return &page{limit: max(limit, 1)} }

func (p *page) offer(l *logState) {
	p.found = append(p.found, l)
	if len(p.found) == 2*p.limit {
		p.trim()
	}
}

func (p *page) trim() {
	slices.SortFunc(p.found, func(a, b *logState) int { return cmp.Compare(a.name, b.name) })
	if len(p.found) > p.limit {
		clear(p.found[p.limit:])
		p.found, p.more = p.found[:p.limit], true
	}
}

func (p *page) logs() (logs []LogInfo, more bool) {
	p.trim()
	for _, l := range p.found {
		logs = append(logs, l.info())
	}
	return logs, p.more
}
