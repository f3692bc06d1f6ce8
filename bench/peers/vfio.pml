/* The shape of a driver that maps device memory on fault: F faults on N pages, one task that turns the memory off and
 * zaps, and (with M 1) one that unmaps. Reader-writer semaphores are fair, as ours are: a writer first queues, and keeps
 * readers out from then on. Each semaphore has one writer at most, so its queue is one bit. */
#ifndef F
#define F 1
#endif
#ifndef N
#define N 2
#endif
#ifndef M
#define M 1
#endif
typedef rwsem { bit queue; byte readers }
rwsem mmap_lock, memory_lock, i_mmap;
bit ptl;
bit memory_on = 1, linked = 1;
bit pte[N];
byte ended;

inline lock(l) { atomic { l == 0 -> l = 1 } }
inline down_read(s) { atomic { s.queue == 0 -> s.readers++ } }
inline up_read(s) { s.readers-- }
inline down_write(s) { s.queue = 1; s.readers == 0 }
inline up_write(s) { s.queue = 0 }

inline zap()
{
	lock(ptl);
	do
	:: i < N && pte[i] == 1 -> atomic { pte[i] = 0; i++ }
	:: atomic { i < N && pte[i] == 0 -> i++ }
	:: atomic { i == N -> ptl = 0; i = 0; break }
	od
}

active [F] proctype fault()
{
	byte i;
	down_read(mmap_lock);
	if
	:: linked ->
	   down_read(memory_lock);
	   if
	   :: memory_on ->
	      do
	      :: lock(ptl);
		 if
		 :: pte[i] == 0 -> pte[i] = 1
		 :: else
		 fi;
		 if
		 :: atomic { i < N - 1 -> ptl = 0; i++ }
		 :: atomic { i == N - 1 -> ptl = 0; i = 0; break }
		 fi
	      od
	   :: else
	   fi;
	   up_read(memory_lock)
	:: else
	fi;
	atomic { up_read(mmap_lock); ended++ }
}

active proctype disable()
{
	byte i;
	down_write(memory_lock);
	memory_on = 0;
	down_read(i_mmap);
	if
	:: linked -> zap()
	:: else
	fi;
	up_read(i_mmap);
	atomic { up_write(memory_lock); ended++ }
}

#if M
active proctype unmap()
{
	byte i;
	down_write(mmap_lock);
	down_write(i_mmap);
	linked = 0;
	up_write(i_mmap);
	zap();
	atomic { up_write(mmap_lock); ended++ }
}
#endif

active proctype monitor()
{
	byte i;
	atomic {
		ended == F + 1 + M ->
		do
		:: i < N -> assert(memory_on || pte[i] == 0); i++
		:: else -> i = 0; break
		od
	}
}
