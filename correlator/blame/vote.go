package blame

import "fmt"

// voteShare is Algorithm 1's cut: a link is bad while it holds this share of
// *all votes cast*. Of the votes that remain, the other reading, it raises false
// alarms.
const voteShare = 0.01

// Vote is 007 as published (NSDI 2018, sections 5.1 and 5.2), to compare with:
// each flow that lost packets gives every link of its path, if that is known, a
// vote of 1/h; Algorithm 1 takes the link with most votes, and with it the votes
// of the flows it explains, while it holds 1 % of all votes cast. The cause of a
// flow is the link of its path with most votes. Votes are no probabilities: those
// stay 0, and there are neither devices, hosts nor abstention.
func Vote(n *Network, ep *Epoch) Result {
	votes := make([]float64, n.Links())
	share := make([]float64, len(ep.Lossy)) // 1/h; 0: no vote
	through := make(map[int32][]int32)      // lossy flows by link
	all := 0.0
	for i := range ep.Lossy {
		f := &ep.Lossy[i]
		h := 0
		for _, l := range f.Path {
			if n.valid(l) {
				h++
			}
		}
		if h == 0 || sane(f.Lost) == 0 {
			continue
		}
		share[i] = 1 / float64(h)
		for _, l := range f.Path {
			if n.valid(l) {
				votes[l] += share[i]
				through[l] = append(through[l], int32(i))
			}
		}
		all++
	}
	var r Result
	r.Causes = make([]Cause, len(ep.Lossy))
	for i := range ep.Lossy {
		best := int32(-1)
		for _, l := range ep.Lossy[i].Path {
			if share[i] > 0 && n.valid(l) && (best < 0 || votes[l] > votes[best]) {
				best = l
			}
		}
		if best >= 0 {
			r.Causes[i] = Cause{Component: Component{Link, best}}
		}
	}
	left := append([]float64(nil), votes...)
	explained := make([]bool, len(ep.Lossy))
	for {
		top := int32(0)
		for l := range left {
			if left[l] > left[top] {
				top = int32(l)
			}
		}
		if len(left) == 0 || left[top] <= 0 || left[top] < voteShare*all {
			return r
		}
		b := Blame{Component: Component{Link, top}, Trace: []string{fmt.Sprintf("%.1f of %.1f votes, %.1f of them not explained by links named before", votes[top], all, left[top])}}
		for _, i := range through[top] {
			b.Evidence.Flows++
			b.Evidence.Lost += sane(ep.Lossy[i].Lost)
			if explained[i] {
				continue
			}
			explained[i] = true
			for _, l := range ep.Lossy[i].Path {
				if n.valid(l) {
					left[l] -= share[i]
				}
			}
		}
		left[top] = 0
		r.Components = append(r.Components, b)
	}
}
