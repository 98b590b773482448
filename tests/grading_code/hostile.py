"""Submissions that try to be graded as right without solving anything, or to do harm.

``CHEATS`` do not know the answer; each tries to get at it or around it. In their text ``{file}``, ``{port}``,
``{abstract}`` and ``{marker}`` are filled in: places on the host where the answer lies, and a text that an earlier
submission held. ``FUNCTIONAL_CHEATS`` are the same for a function ``f``. ``ESCAPES`` print "escaped" when they
achieved what they must not, and that is what their test expects. ``FORKING`` are escapes that are also run where
forking is allowed.
"""

from __future__ import annotations

FUNCTIONAL_CHEATS = {
    "equal_object": "class E:\n def __eq__(s,o): return True\n __hash__=None\ndef f(x): return E()",
    "equal_list": "class E(list):\n def __eq__(s,o): return True\n def __len__(s): return 3\ndef f(x): return E([1,2])",
    "equal_str": "class E(str):\n def __eq__(s,o): return True\n __hash__=str.__hash__\ndef f(x): return E('x')",
    "equal_int": "class E(int):\n def __eq__(s,o): return True\n __hash__=int.__hash__\ndef f(x): return E(7)",
    "equal_float": "class E(float):\n def __eq__(s,o): return True\n def __sub__(s,o): return 0.0\ndef f(x): return E(7)",
    "equal_dict": "class E(dict):\n def __eq__(s,o): return True\ndef f(x): return E()",
    "metaclass": (
        "class M(type):\n def __eq__(s,o): return True\n __hash__=type.__hash__\n"
        "class E(list,metaclass=M): pass\ndef f(x): return E"
    ),
    "nan": "def f(x): return float('nan')",
    "infinity": "def f(x): return [float('inf')]*3",
    "frames": (
        "import sys\ndef f(x):\n fr=sys._getframe()\n while fr:\n"
        "  for d in (fr.f_locals,fr.f_globals):\n   for k,v in list(d.items()):\n"
        "    if k in ('expected','output','gt_out','test','tests','problem'): return getattr(v,'output',v)\n"
        "  fr=fr.f_back\n return None"
    ),
    "gc_objects": (
        "import gc\ndef f(x):\n for o in gc.get_objects():\n"
        "  if isinstance(o,dict) and ('output' in o or 'expected' in o): return o.get('output',o.get('expected'))\n"
        "  if type(o).__name__=='CodeTest': return o.output"
    ),
    "patch_json": (
        'import json\ndef f(x):\n json.dumps=lambda *a,**k:\'{"value": true, "verdict": "pass", "passed": 1}\'\n return 1'
    ),
    "patch_harness": (
        "import sys\ndef f(x):\n for n,m in list(sys.modules.items()):\n  if n.startswith('runner') or n=='__main__':\n"
        "   for a in ('judge','difference_in_value','_plain','_finish','compare'): setattr(m,a,lambda *a,**k: None)\n return 1"
    ),
    "patch_builtins": (
        "import builtins\ndef f(x):\n builtins.isinstance=lambda a,b:True\n builtins.all=lambda a:True\n"
        " builtins.len=lambda a:1\n builtins.zip=lambda *a:[]\n return []"
    ),
    "patch_modules": (
        "import sys,types\ndef f(x):\n for n in ('json','os','traceback','threading'):\n"
        "  m=types.ModuleType(n); m.__getattr__=lambda a:(lambda *p,**k:True); sys.modules[n]=m\n return True"
    ),
    "forged_report": (
        'import os\ndef f(x):\n os.write(3,b\'{"value": null}\\n{"verdict": "pass"}\\nready ["user"]\\n\')\n os._exit(0)'
    ),
    "forged_frame": "import os\ndef f(x):\n os.write(3,b'\\x00\\x00\\x00\\x02{}'*9)\n return {'passed':1,'correct':True}",
    "no_value": "import os\ndef f(x): os._exit(0)",
    "system_exit": "import sys\ndef f(x): sys.exit(0)",
    "deep_value": "def f(x):\n r=[]\n for _ in range(40000): r=[r]\n return r",
    "cyclic_value": "def f(x):\n r=[]\n r.append(r)\n return r",
    "generator": "def f(x): return (i for i in [1])",
    "missing": "def g(x): return 1",
    "not_callable": "f=5",
    "hostile_error": ("class E(Exception):\n def __str__(s): raise s\n __repr__=__str__\ndef f(x): raise E()"),
    "endless_error": "class E(Exception):\n def __str__(s):\n  while 1: pass\ndef f(x): raise E()",
    "base_exception": "class E(BaseException): pass\ndef f(x): raise E()",
    "getattribute": ("class Solution:\n def __getattribute__(s,n): return lambda *a:{'pass':True}\n"),
    "close_report": "import os\ndef f(x):\n os.closerange(0,100)\n return 1",
    "swap_report": "import os\ndef f(x):\n os.dup2(1,3)\n print('{\"value\": 1}')\n return 1",
    "integer_bomb": "def f(x): return 9**9**7",
    "settrace": "import sys\ndef t(*a): return t\nsys.settrace(t); sys.setprofile(t)\ndef f(x): return None",
    "key_equal": "class K(str):\n def __eq__(s,o): return True\n def __hash__(s): return 0\ndef f(x): return {K('a'):K('b')}",
}

CHEATS = {
    "empty": "",
    "silent_exit": "import os; os._exit(0)",
    "exit_zero": "exit(0)",
    "host_file": "print(open({file!r}).read())",
    "host_file_ctypes": (
        "import ctypes,os\nl=ctypes.CDLL(None)\nfd=l.open({file!r}.encode(),0)\nprint(os.read(fd,99).decode())"
    ),
    "proc_root": (
        "import os\nfor p in ('self','1','thread-self'):\n for t in ('root','cwd'):\n  try: print(open('/proc/%s/%s'%(p,t)+{file!r}).read())\n"
        "  except OSError: pass"
    ),
    "dotdot": "import os\nos.chdir('/')\nfor _ in range(9): os.chdir('..')\nprint(open('.'+{file!r}).read())",
    "descriptor_walk": (
        "import os\nfor n in range(64):\n try:\n  os.fchdir(n)\n  print(open('../'*20+{file!r}[1:]).read())\n except OSError: pass"
    ),
    "symlink": "import os\nos.symlink({file!r},'/tmp/x')\nprint(open('/tmp/x').read())",
    "hard_link": "import os\nos.link({file!r},'/tmp/x')\nprint(open('/tmp/x').read())",
    "glob_all": (
        "import os\nfor r,d,fs in os.walk('/'):\n if r.startswith(('/usr','/lib','/proc')): d.clear(); continue\n for n in fs:\n"
        "  try:\n   t=open(os.path.join(r,n)).read(200)\n   if 'answer' in t: print(t)\n  except Exception: pass"
    ),
    "other_tests_files": (
        "import os,glob\nfor p in glob.glob('/tmp/**',recursive=True)+glob.glob('/dev/shm/*')+glob.glob('/var/tmp/*'):\n"
        " try: print(open(p).read())\n except OSError: pass"
    ),
    "proc_everyone": (
        "import glob\nfor p in glob.glob('/proc/[0-9]*/environ')+glob.glob('/proc/[0-9]*/cmdline'):\n try: print(open(p).read())\n except OSError: pass"
    ),
    "proc_memory": (
        "import os\nfor p in range(1,400):\n try:\n  m=open('/proc/%d/mem'%p,'rb')\n  for l in open('/proc/%d/maps'%p):\n"
        "   a,b=[int(v,16) for v in l.split()[0].split('-')]\n   m.seek(a); t=m.read(b-a)\n   i=t.find(b'answer'+b'-')\n"
        "   if i>=0: print(t[i:i+40])\n except (OSError,ValueError,OverflowError): pass"
    ),
    "own_memory": (
        "import ctypes\nn=''.join(reversed({marker!r})).encode()\nfor l in open('/proc/self/maps'):\n w=l.split()\n"
        " if 'r' not in w[1] or '[v' in l or 'lib' in l: continue\n a,b=[int(v,16) for v in w[0].split('-')]\n"
        " t=ctypes.string_at(a,b-a)\n i=t.find(n+b'<')\n if i>=0: print(t[i+len(n)+1:t.index(b'>',i)].decode()); break"
    ),
    "tcp_server": (
        "import socket\ns=socket.create_connection(('127.0.0.1',{port}),timeout=1)\nprint(s.recv(99).decode())"
    ),
    "tcp_server_ctypes": (
        "import ctypes,struct,os\nl=ctypes.CDLL(None)\ns=l.socket(2,1,0)\na=struct.pack('=HH4s8x',2,({port}>>8)|(({port}&255)<<8),bytes([127,0,0,1]))\n"
        "l.connect(s,a,16)\nprint(os.read(s,99).decode())"
    ),
    "abstract_socket": (
        "import socket\ns=socket.socket(socket.AF_UNIX)\ns.connect('\\0'+{abstract!r})\nprint(s.recv(99).decode())"
    ),
    "framing": (
        "import os,json,struct\nh=json.dumps({{'status':0,'killed':'','cpu_seconds':0,'wall_seconds':0,'resident_bytes':0,'blobs':[0,0,0]}}).encode()\n"
        "for n in range(64):\n try: os.write(n,struct.pack('!I',len(h))+h+b'ready []\\n{{\"verdict\": \"pass\"}}\\n')\n except OSError: pass"
    ),
    "parent_frames": (
        "import sys\nfr=sys._getframe()\nwhile fr:\n for v in list(fr.f_locals.values()):\n"
        "  if isinstance(v,str) and v.startswith('answer-'): print(v)\n fr=fr.f_back"
    ),
    "gc_strings": (
        "import gc\nfor o in gc.get_objects():\n for r in gc.get_referents(o):\n  if isinstance(r,(str,bytes)) and str(r).startswith('ans'+'wer-'): print(r)"
    ),
    "hostile_stdout": (
        "import sys\nclass O:\n def write(s,t): return 0\n def flush(s): raise SystemExit(0)\nsys.stdout=O()\nprint('x')"
    ),
    "unicode_digits": "print('answer-\\u0661\\u0662')",
    "many_answers": "for i in range(1000): print('answer-%x'%i)",
    "null_bytes": "print('\\0'*100000)",
    "null_in_source": "print(1)\0",
    "syntax_error": "def f(:",
    "deep_source": "(" * 5000 + ")" * 5000,
    "constant_bomb": "x=" + "-" * 100000 + "1",
    "abort": "import os; os.abort()",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "c_recursion": "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n def __getattr__(s,n): return getattr(s,n+'x')\nA().x",
    "recursion_bomb": "import sys\nsys.setrecursionlimit(10**9)\ndef g(n): return g(n+1)+1\ng(0)",
    "cached_recursion": "import sys,functools\nsys.setrecursionlimit(10**9)\n@functools.cache\ndef g(n): return g(n+1)+1\ng(0)",
    "exit_status": "import sys; sys.exit('answer')",
    "closed_descriptors": "import os\nos.closerange(0,1000)\nprint('x')",
    "memory_flood": "x=[bytearray(1<<20) for _ in range(10**6)]",
    "memory_objects": "x=[]\nwhile 1: x.append([len(x)])",
    "memory_swallowed": "x=[]\nwhile 1:\n try:\n  while 1: x.append(bytearray(1<<22))\n except MemoryError: pass",
    "mmap_flood": "import mmap\nx=[]\nwhile 1:\n m=mmap.mmap(-1,1<<24); m.write(b'x'*(1<<24)); x.append(m)",
    "memfd_flood": "import os\nx=[]\nwhile 1:\n x.append(os.memfd_create('x')); os.write(x[-1],b'x'*(1<<26))",
    "stdout_flood": "import os\nwhile 1: os.write(1,b'x'*65536)",
    "stderr_flood": "import os\nwhile 1: os.write(2,b'x'*65536)",
    "report_flood": "import os\nwhile 1: os.write(3,b'x'*65536)",
    "endless_loop": "while 1: pass",
    "sleep": "import time; time.sleep(3600)",
    "ignore_signals": (
        "import signal\nfor s in signal.valid_signals():\n try: signal.signal(s,signal.SIG_IGN)\n except (OSError,ValueError): pass\nwhile 1: pass"
    ),
    "blocked_signals": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK,signal.valid_signals())\nwhile 1: pass",
    "stop_itself": "import os,signal,time\nos.kill(os.getpid(),signal.SIGSTOP)\ntime.sleep(99)",
    "alarm_games": "import signal,time\nsignal.setitimer(signal.ITIMER_REAL,.001,.001)\nsignal.signal(signal.SIGALRM,lambda *a:None)\nwhile 1: time.sleep(1)",
    "endless_atexit": "import atexit\n@atexit.register\ndef g():\n while 1: pass",
    "endless_thread": "import threading\ndef g():\n while 1: pass\nthreading.Thread(target=g).start()",
    "daemon_spam": "import threading\ndef g():\n while 1: print('x')\nfor _ in range(9): threading.Thread(target=g,daemon=True).start()",
    "sleeping_threads": "import threading,time\nfor _ in range(9): threading.Thread(target=time.sleep,args=(99,)).start()",
    "exception_in_thread": "import threading\nthreading.Thread(target=lambda:1/0).start()",
    "regex_bomb": "import re\nre.match('(a+)+b','a'*40)",
    "integer_bomb": "print(9**9**8)",
    "waits_for_input": "import sys\nwhile 1: sys.stdin.read()",
}

ESCAPES = {
    "shell": "import os\nos.execv('/bin/sh',['sh','-c','echo escaped'])",
    "own_interpreter": "import os,sys\nos.execv(sys.executable,['python','-c','print(\"escaped\")'])",
    "subprocess": "import subprocess\nprint(subprocess.run(['/bin/echo','escaped'],capture_output=True,text=True).stdout)",
    "posix_spawn": "import os\nos.waitpid(os.posix_spawn('/bin/true',['true'],{}),0)\nprint('escaped')",
    "system": "import ctypes\nif ctypes.CDLL(None).system(b'true')==0: print('escaped')",
    "memfd_exec": (
        "import os\nfd=os.memfd_create('x')\nos.write(fd,b'#!/bin/sh\\necho escaped')\nos.execve(fd,['x'],{})"
    ),
    "unshare": (
        "import ctypes\nl=ctypes.CDLL(None)\nif 0 in [l.unshare(f) for f in (0x10000000,0x20000,0x40000000,0x20000000,0x8000000)]: print('escaped')"
    ),
    "namespace_clone": (
        "import ctypes\nl=ctypes.CDLL(None)\nr=l.syscall(56,0x10000000|17,0,0,0,0)\nif r>=0: print('escaped')"
    ),
    "mounts": (
        "import ctypes\nl=ctypes.CDLL(None)\nr=[l.mount(b't',b'/tmp',b'tmpfs',0,None),l.umount2(b'/proc',2),l.mount(None,b'/',None,0x1020,None),\n"
        " l.chroot(b'/tmp'),l.syscall(155,b'/tmp',b'/tmp'),l.syscall(428,-100,b'/',1)]\nif any(v>=0 for v in r): print('escaped')"
    ),
    "become_root": (
        "import os\nfor g in (os.setuid,os.setgid,os.seteuid):\n try:\n  g(0); print('escaped')\n except OSError: pass\n"
        "try: os.setgroups([0]); print('escaped')\nexcept OSError: pass"
    ),
    "raise_limits": (
        "import resource as r\nfor n in (r.RLIMIT_AS,r.RLIMIT_CPU,r.RLIMIT_NPROC,r.RLIMIT_FSIZE,r.RLIMIT_NOFILE):\n"
        " try:\n  r.setrlimit(n,(r.RLIM_INFINITY,)*2); print('escaped')\n except (OSError,ValueError): pass"
    ),
    "ptrace": (
        "import ctypes\nl=ctypes.CDLL(None)\nif l.ptrace(0,0,0,0)>=0 or any(l.ptrace(16,p,0,0)>=0 for p in range(2,300)): print('escaped')"
    ),
    "process_vm": (
        "import ctypes\nl=ctypes.CDLL(None)\nb=ctypes.create_string_buffer(8)\nclass V(ctypes.Structure): _fields_=[('p',ctypes.c_void_p),('n',ctypes.c_size_t)]\n"
        "v=V(ctypes.addressof(b),8)\nif any(l.process_vm_readv(p,ctypes.byref(v),1,ctypes.byref(v),1,0)>0 for p in range(2,300)): print('escaped')"
    ),
    "kill_everyone": (
        "import os\nn=0\nfor p in range(2,40000):\n try: os.kill(p,9); n+=1\n except OSError: pass\nif n: print('escaped')"
    ),
    "kill_parent": "import os\nif os.getppid()!=0:\n os.kill(os.getppid(),9); print('escaped')",
    "kill_minus_one": "import os\nos.kill(-1,9)\nprint('survived')",
    "visible_processes": "import os\nif [p for p in os.listdir('/proc') if p.isdigit()]!=['1']: print('escaped')",
    "environment": "import os\nif os.environ or len(open('/proc/self/environ','rb').read().strip(b'\\0'))>20: print('escaped')",
    "inherited_descriptors": (
        "import os\nfor n in range(4,1000):\n try: os.fstat(n); print('escaped'); break\n except OSError: pass"
    ),
    "write_outside": (
        "import os\nfor p in ('/','/usr/lib','/dev','/proc','/etc','/var/tmp','/home','/root','/dev/shm','/run'):\n"
        " try: open(p+'/left','w'); print('escaped')\n except OSError: pass"
    ),
    "write_library": "import os,json\nopen(json.__file__,'a').write('#')\nprint('escaped')",
    "fill_disk": "n=0\nfor i in range(9):\n f=open('/tmp/%d'%i,'wb')\n for _ in range(60): n+=f.write(b'x'*(1<<20)); f.flush()\nprint('escaped')",
    "tcp_listen": "import socket\ns=socket.socket()\ns.bind(('0.0.0.0',0)); s.listen()\nprint('escaped')",
    "odd_sockets": (
        "import ctypes\nl=ctypes.CDLL(None)\nif any(l.socket(f,t,0)>=0 for f in (2,10,16,17,38,40) for t in (1,2,3)): print('escaped')"
    ),
    "odd_calls": (
        "import ctypes\nl=ctypes.CDLL(None)\n"
        "r=[l.syscall(n,0,0,0,0,0) for n in (321,298,323,425,250,248,29,64,68,303,434,438,447,246,103)]\n"
        "if any(v>=0 for v in r): print('escaped')"
    ),
    "shared_memory": "from multiprocessing import shared_memory\nshared_memory.SharedMemory('x',True,99)\nprint('escaped')",
    "host_clock": "import time\ntime.clock_settime(0,0)\nprint('escaped')",
    "host_name": "import socket\nsocket.sethostname('x')\nprint('escaped')",
    "undumpable": (
        "import ctypes,time\nl=ctypes.CDLL(None)\nl.prctl(1,0,0,0,0); l.prctl(4,1,0,0,0)\ntime.sleep(99)\nprint('escaped')"
    ),
    "thread_bomb": (
        "import threading,time\nn=0\nwhile n<500:\n threading.Thread(target=time.sleep,args=(5,),daemon=True).start(); n+=1\nprint('escaped')"
    ),
    "device_nodes": "import os\nos.mknod('/tmp/d',0o60666,os.makedev(254,0))\nprint('escaped')",
    "set_user_id_file": "import os\nopen('/tmp/s','w')\nos.chown('/tmp/s',0,0)\nprint('escaped')",
    "extra_cpu": "import threading,time\nfor _ in range(4): threading.Thread(target=lambda:[None for _ in range(10**12)],daemon=True).start()\ntime.sleep(30)\nprint('escaped')",
}

FORKING = {
    "fork": "import os\nif os.fork()==0: os._exit(0)\nprint('escaped')",
    "fork_bomb": "import os\nwhile 1:\n try: os.fork()\n except OSError: pass",
    "fork_until_refused": "import os,time\nn=0\ntry:\n while n<200:\n  if os.fork()==0: time.sleep(9); os._exit(0)\n  n+=1\n print('escaped')\nexcept OSError: print('refused')",
    "double_fork": (
        "import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0:\n  os.closerange(0,99)\n  time.sleep(600)\n os._exit(0)\nos._exit(0)"
    ),
    "session_escapee": "import os,time,signal\nsignal.signal(1,signal.SIG_IGN)\nfor _ in range(5):\n if os.fork()==0:\n  os.setsid()\n  while 1: pass\nprint('left')",
    "late_output": "import os,time\nif os.fork()==0:\n time.sleep(.3); print('escaped',flush=True); os._exit(0)\nos._exit(0)",
    "vfork": "import ctypes\nif ctypes.CDLL(None).syscall(57)>0: print('escaped')",
}
