/* F faults on N pages that share one page-table lock, taken once a page, and a zap that takes it once for all pages.
 *
 * One step here is one event of ours.py. What tells where a loop stands is folded into the steps next to it, and so is
 * the count of tasks that have ended: neither adds a state. The monitor adds F + 3, whatever the end looks like: its own
 * step, which puts all ends together, and the end of each of the F + 2 processes, which SPIN counts as steps.
 */
#ifndef F
#define F 2
#endif
#ifndef N
#define N 2
#endif
bit ptl;
bit pte[N];
byte ended;

inline lock(l) { atomic { l == 0 -> l = 1 } }

active [F] proctype fault()
{
	byte i;
	do
	:: lock(ptl);
	   if
	   :: pte[i] == 0 -> pte[i] = 1
	   :: else
	   fi;
	   if
	   :: atomic { i < N - 1 -> ptl = 0; i++ }
	   :: atomic { i == N - 1 -> ptl = 0; ended++; break }
	   fi
	od
}

active proctype zap()
{
	byte i;
	lock(ptl);
	do
	:: i < N && pte[i] == 1 -> atomic { pte[i] = 0; i++ }
	:: atomic { i < N && pte[i] == 0 -> i++ }
	:: atomic { i == N -> ptl = 0; ended++; break }
	od
}

active proctype monitor()
{
	byte i;
	atomic {
		ended == F + 1 -> assert(ptl == 0);
		do
		:: i < N -> pte[i] = 0; i++
		:: else -> i = 0; break
		od
	}
}
