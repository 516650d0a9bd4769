// page.js makes dialogs of the page's screens, and takes care of a secret that is shown:
// copying, hiding, wiping. Everything else works without it. It also defines the element
// <apikey-page src>, which shows the same screens inside another page.
(() => {
'use strict'
const version = 'VERSION' // the server writes it
const at = (address) => new URL(address, location.href) // a host may have a <base>

// load asks for a screen. XMLHttpRequest makes a document of HTML, without running scripts
// and where Trusted Types forbid it to scripts.
const load = (address, inElement, signal, method = 'GET', body = null) => new Promise((resolve, reject) => {
	const r = new XMLHttpRequest()
	r.open(method, address)
	r.responseType = 'document'
	r.setRequestHeader('Apikey-Fragment', version)
	if (inElement) r.setRequestHeader('Apikey-Element', '1')
	r.onload = () => {
		const theirs = r.getResponseHeader('Apikey-Fragment')
		resolve({
			doc: r.response, url: r.responseURL, keep: r.getResponseHeader('Apikey-Keep'),
			stale: r.status === 409 && theirs && theirs !== version,
			redirected: r.responseURL !== address.href.split('#')[0],
		})
	}
	r.onerror = r.onabort = reject
	const stop = () => r.abort()
	signal.addEventListener('abort', stop)
	r.onloadend = () => signal.removeEventListener('abort', stop) // which would keep the answer, perhaps with a secret
	r.send(body)
})

// said is what the screen of a problem says.
const said = (res) => res.doc?.querySelector('[role=alert]')?.textContent

// page takes care of the screens in main, which is in root: the document, or the shadow root
// of an element, whose host is told of a secret and of the address. It ends with signal.
const page = (root, main, host, signal) => {
	const text = main.dataset
	let dialog = null // that is open
	let opener = null // what the focus returns to
	let showing = false // a secret
	let turn = 0 // of the screens that were asked for

	// say puts a text into a live region that exists already: one that comes with its text
	// is not read out.
	const say = (near, words, to = '.ak-copied, .ak-did') => {
		const region = (near.closest('.ak-screen') || main).querySelector(to)
		if (!region) return
		region.hidden = false
		region.textContent = ''
		setTimeout(() => { region.textContent = words }, 50)
	}

	// --- a secret that is shown ---

	const shown = () => root.querySelector('[data-secret]')
	// must reports whether a secret would be lost if its dialog closed now.
	const must = () => {
		const s = shown()
		return s && 'shownOnce' in s.dataset && !s.dataset.saved && s.querySelector('textarea').value !== ''
	}
	const wipe = () => {
		for (const area of root.querySelectorAll('[data-secret] textarea')) {
			area.value = ''
			area.textContent = ''
			area.defaultValue = ''
		}
		for (const code of root.querySelectorAll('[data-secret] svg')) code.remove()
		if (showing) {
			showing = false
			host?.tell('closed')
		}
	}

	const keep = (screen) => {
		const box = screen.querySelector('[data-secret]')
		if (!box) return
		const area = box.querySelector('textarea')
		if (!area) return
		showing = true
		host?.tell('open', 'shownOnce' in box.dataset)
		const secret = area.value
		area.textContent = '' // the text is a value from now on, and in no snapshot of the document
		area.defaultValue = ''
		area.value = secret
		const done = screen.querySelector('[data-done]')
		const saved = screen.querySelector('[data-saved]')
		if (saved && done) {
			saved.hidden = false
			const check = saved.querySelector('[data-saved-box]')
			done.setAttribute('aria-disabled', 'true')
			check.addEventListener('change', () => {
				box.dataset.saved = check.checked ? '1' : ''
				done.setAttribute('aria-disabled', String(!check.checked))
			})
			done.addEventListener('click', (e) => {
				if (!check.checked) {
					e.preventDefault()
					e.stopImmediatePropagation()
					check.focus()
				}
			})
		}
		if (done) done.addEventListener('click', wipe)
		const download = box.querySelector('[data-download]')
		if (download) {
			download.hidden = false
			download.addEventListener('click', () => {
				const url = URL.createObjectURL(new Blob([box.dataset.env + '=' + area.value + '\n'], { type: 'text/plain' }))
				const a = Object.assign(document.createElement('a'), { href: url, download: '.env' })
				a.click()
				setTimeout(() => URL.revokeObjectURL(url), 1000)
			})
		}
		if (box.dataset.hide) countdown(box, screen)
		area.focus()
		area.select() // Ctrl+C copies it; Chromium has no caret in a read-only area, and so begins no selection by keys
	}

	// countdown goes by the clock: a tab in the background has no ticks.
	const countdown = (box, screen) => {
		const ends = Date.now() + 1000 * Number(box.dataset.hide)
		const timer = box.querySelector('[role=timer]')
		const digits = [...text.digits]
		const seconds = (n) => text.left.replace('%n', String(n).replace(/[0-9]/g, (d) => digits[d]))
		const announced = new Set()
		const tick = () => {
			if (!box.isConnected || box.dataset.over) return
			const left = Math.max(0, Math.ceil((ends - Date.now()) / 1000))
			timer.textContent = seconds(left)
			for (const at of [30, 10]) {
				if (left <= at && !announced.has(at)) {
					announced.add(at)
					say(box, seconds(left), '[data-announced]')
				}
			}
			if (left === 0) {
				box.dataset.over = '1'
				wipe()
				for (const b of box.querySelectorAll('button, textarea')) b.hidden = true
				timer.textContent = text.hidden
				say(box, text.hidden, '[data-announced]')
				screen.querySelector('[data-done]')?.focus()
				return
			}
			setTimeout(tick, 250)
		}
		tick()
		document.addEventListener('visibilitychange', tick, { signal })
	}

	addEventListener('pagehide', wipe, { signal })
	addEventListener('pageshow', (e) => { if (e.persisted) host ? host.again() : location.reload() }, { signal })
	addEventListener('beforeunload', (e) => { if (must()) e.preventDefault() }, { signal })

	// --- copying ---

	const copy = async (button) => {
		const from = root.getElementById(button.dataset.copy)
		const words = from.value ?? from.textContent
		try {
			await navigator.clipboard.writeText(words) // is not there without TLS
			say(button, text.copied)
			return
		} catch { /* the older way */ }
		select(from)
		let copied = false
		try { copied = document.execCommand('copy') } catch { /* and the oldest: by hand */ }
		if (copied) button.focus()
		say(button, copied ? text.copied : text.press)
	}
	const select = (el) => {
		if (el.select) { el.focus(); el.select(); return }
		getSelection().setBaseAndExtent(el, 0, el, el.childNodes.length)
	}

	// --- dialogs ---

	const close = (to) => {
		if (!dialog || must()) return
		wipe()
		const d = dialog
		dialog = null
		d.close()
		d.remove()
		if (to) location.assign(to)
		else if (opener?.isConnected) opener.focus()
	}

	const open = () => {
		const made = dialog = document.createElement('dialog')
		dialog.className = 'ak-dialog'
		dialog.addEventListener('cancel', (e) => { // the event close waits for a frame, and a tab in the background has none
			if (must()) e.preventDefault()
			else wipe()
		})
		dialog.addEventListener('close', () => {
			if (dialog !== made) return
			if (must()) { dialog.showModal(); return } // a browser without closedby closes at the second Esc
			close()
		})
		main.append(dialog)
		dialog.showModal()
	}

	// show replaces what the dialog shows by a screen.
	const show = (doc) => {
		const content = doc?.querySelector('.ak-screen')
		if (!content) return false
		if (dialog) wipe()
		else open()
		dialog.replaceChildren(document.importNode(content, true))
		dialog.setAttribute('closedby', content.querySelector('[data-shown-once]') ? 'none' : 'closerequest')
		dialog.setAttribute('aria-labelledby', content.getAttribute('aria-labelledby'))
		dress(dialog)
		aim()
		return true
	}
	const aim = () => {
		const target = dialog.querySelector('[data-secret] textarea') || dialog.querySelector('[aria-invalid=true]') ||
			dialog.querySelector('form input:not([type=hidden]), form select, form textarea') || dialog.querySelector('h1')
		target?.focus()
	}

	// put replaces the screen of an element, which has no page to go to.
	const put = (res) => {
		const content = res.doc?.querySelector('.ak-screen')
		if (!content || must()) return false
		wipe()
		opener = null
		close()
		const screen = document.importNode(content, true)
		const did = screen.querySelector('.ak-did:not([hidden])')
		const words = did?.textContent
		if (did) did.textContent = ''
		main.querySelector(':scope > .ak-unreached')?.remove()
		main.querySelector(':scope > .ak-screen').replaceWith(screen)
		const top = res.doc.querySelector('.ak-top')
		main.parentNode.querySelector('.ak-top')?.remove()
		if (top) main.before(document.importNode(top, true))
		host.address = res.url
		dress(main)
		if (!showing) screen.querySelector('h1')?.focus()
		if (words) say(screen, words, '.ak-did')
		return true
	}

	// ask asks for a screen, and shows it: in a dialog, or as the whole of an element.
	const ask = async (address, form, whole, method, body) => {
		const mine = whole && !method ? ++turn : 0
		let res
		try {
			res = await load(address, host, signal, method, body)
		} catch {
			if (!signal.aborted) failed(form)
			return
		}
		if (signal.aborted || mine && mine !== turn) return // the element is gone, or something else was asked for
		if (res.stale) {
			if (host) failed(form, said(res)) // to reload is for the host, which may have the old script for long
			else location.reload()
		} else if (res.keep && form) { // signed out meanwhile: what was typed stays
			failed(form, said(res), res.doc?.querySelector('a.ak-button[target]'))
		} else if (host && (whole || res.redirected)) {
			if (!put(res)) failed(form)
		} else if (res.redirected) { // it was done
			if (dialog) close(res.url)
			else location.assign(res.url)
		} else if (!show(res.doc)) {
			failed(form)
		}
	}

	// failed says why a form was not taken, by default that the server was not reached. The
	// form stays as it is, and can be sent again.
	const failed = (form, words, link) => {
		const near = form?.isConnected ? form : dialog || main
		let alert = near.querySelector('.ak-unreached')
		if (!alert) {
			alert = document.createElement('p')
			alert.className = 'ak-wrong ak-unreached'
			alert.setAttribute('role', 'alert')
			near.prepend(alert)
		}
		alert.textContent = (words || text.failed) + ' '
		if (link) alert.append(document.importNode(link, true))
	}

	const send = (form, submitter, whole) => {
		if (form.dataset.sending) return // Enter that is held down, a double click
		form.dataset.sending = '1'
		const data = new URLSearchParams(new FormData(form))
		if (submitter?.name) data.append(submitter.name, submitter.value)
		const screen = form.closest('dialog') || form // has other forms, which the answer replaces too
		const buttons = [...screen.querySelectorAll('button:enabled')]
		const typed = [...screen.querySelectorAll('input:read-write, textarea:read-write')] // what is typed now would be lost
		for (const f of typed) f.readOnly = true
		for (const b of buttons) b.disabled = true
		ask(at(form.getAttribute('action')), form, whole, 'POST', data).finally(() => {
			delete form.dataset.sending
			for (const f of typed) f.readOnly = false
			for (const b of buttons) b.disabled = false
		})
	}

	// settle finishes what the event close has yet to do: a key may be pressed before it comes.
	const settle = () => { if (dialog && !dialog.open) close() }

	// inside reports whether an address is one of the screens that an element shows.
	const inside = (address) => address.origin === location.origin && (address.pathname + '/').startsWith(text.base.replace(/\/$/, '') + '/')
	const go = (address) => { if (!must()) ask(address, null, true) }

	root.addEventListener('click', (e) => {
		settle()
		const button = e.target.closest('[data-copy]')
		if (button) { copy(button); return }
		const link = e.target.closest('a[href]')
		if (!link || e.defaultPrevented || e.button || e.metaKey || e.ctrlKey || e.shiftKey || link.download) return
		const address = at(link.getAttribute('href'))
		if (dialog?.contains(link) && 'cancel' in link.dataset) {
			e.preventDefault()
			close()
		} else if ('dialog' in link.dataset && !dialog) {
			e.preventDefault()
			opener = link
			ask(address, null)
		} else if (host && !link.target && inside(address)) {
			e.preventDefault()
			go(address)
		}
	}, { signal })
	root.addEventListener('submit', (e) => {
		const form = e.target
		if (e.defaultPrevented) return
		settle()
		const inDialog = 'dialog' in form.dataset
		if (form.method === 'get') {
			const address = at(form.getAttribute('action'))
			if (inDialog && !dialog) {
				e.preventDefault()
				opener = e.submitter
				ask(address, null)
			} else if (host) {
				e.preventDefault()
				address.search = new URLSearchParams(new FormData(form))
				go(address)
			}
			return
		}
		if (dialog?.contains(form) || inDialog || host) {
			e.preventDefault()
			if (!dialog) opener = e.submitter
			send(form, e.submitter, host && !inDialog && !dialog?.contains(form))
		} else if (form.dataset.sending) {
			e.preventDefault()
		} else {
			form.dataset.sending = '1'
			setTimeout(() => delete form.dataset.sending, 5000)
		}
	}, { signal })

	// dress adds what a screen has only with this script.
	const dress = (within) => {
		for (const part of within.querySelectorAll('[data-shown-with]')) {
			const set = part.closest('fieldset')
			const update = () => { part.hidden = set.querySelector('input[type=radio]:checked')?.value !== part.dataset.shownWith }
			set.addEventListener('change', update)
			update()
		}
		for (const screen of within.querySelectorAll('.ak-screen')) keep(screen)
	}
	dress(main)

	return {
		wipe,
		// reopen makes a dialog modal again, which is not after it was moved.
		reopen: () => {
			if (!dialog) return
			dialog.removeAttribute('open')
			dialog.showModal()
			aim()
		},
	}
}

const whole = document.getElementById('ak-main')
if (whole) page(document, whole, null, new AbortController().signal)

// --- the element ---

class Page extends HTMLElement {
	static observedAttributes = ['src']
	#root = this.attachShadow({ mode: 'open' })
	#stop = null // ends what is shown
	#page = null
	address = '' // of the screen that is shown

	connectedCallback() {
		if (this.#stop) this.#page?.reopen() // moved within one task
		else this.again()
	}

	// What is only moved, as React moves elements, is connected again before a microtask runs.
	disconnectedCallback() {
		queueMicrotask(() => { if (!this.isConnected) this.#end() })
	}

	attributeChangedCallback(_, before, now) {
		if (this.#stop && before !== now) this.again()
	}

	#end() {
		this.#page?.wipe()
		this.#stop?.abort()
		this.#root.replaceChildren()
		this.#stop = this.#page = null
	}

	// again shows src from the beginning.
	async again() {
		this.#end()
		const { signal } = this.#stop = new AbortController()
		let address
		try { address = at(this.getAttribute('src')) } catch { /* is none */ }
		if (!this.getAttribute('src') || address?.origin !== location.origin) {
			this.#say('apikey-page: src is not an address of this site.')
			return
		}
		let res
		try { res = await load(address, true, signal) } catch { /* not reached */ }
		if (signal.aborted) return
		const all = res?.doc?.querySelector('.ak')
		if (!all || res.stale) {
			if (res && !res.stale) console.error(`apikey-page: there is no key page at ${res.url}: src is the Path of the page`)
			this.#say(res?.stale ? said(res) : res ? 'There is no key page here.' : 'The server could not be reached.', !res?.stale)
			return
		}
		const links = [...res.doc.querySelectorAll('link[rel=stylesheet]')].map((l) => document.importNode(l))
		const styled = Promise.all(links.map((l) => new Promise((done) => { l.onload = l.onerror = done })))
		this.#root.append(...links)
		await styled
		if (signal.aborted) return
		this.address = res.url
		this.#root.append(document.importNode(all, true))
		this.#page = page(this.#root, this.#root.querySelector('.ak-main'), this, signal)
	}

	// tell fires an event, so that the router of the host can keep a view that shows a secret.
	tell(what, once) {
		this.dispatchEvent(new CustomEvent('apikey-secret-' + what, { bubbles: true, composed: true, detail: { once } }))
	}

	#say(words, tryAgain) {
		const alert = document.createElement('p')
		alert.setAttribute('role', 'alert')
		alert.textContent = words
		this.#root.replaceChildren(alert)
		if (!tryAgain) return
		const button = document.createElement('button')
		button.textContent = 'Try again'
		button.addEventListener('click', () => this.again())
		alert.append(' ', button)
	}
}
if (!customElements.get('apikey-page')) customElements.define('apikey-page', Page)
})()
